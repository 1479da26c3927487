"""The Conformer: a model for audio with attention and convolution in each block.

As in Gulati et al. 2020, arXiv:2005.08100, with two differences: positions are rotary or absent
instead of relative, and attention has no biases.

Initial values are as in model/sound.py, except for the output kernels of the four parts of a block.
These are normally distributed with standard deviation 0.02 / sqrt(4 L), where L is the number of
blocks.

Axes: B batch, T length, D width, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.activations import captured
from model.layers.attention import Attention
from model.layers.convolution import batch_norm
from model.layers.dropout import apply_dropout, fold_key, split_key
from model.layers.feed_forward import FeedForward
from model.layers.linear import WEIGHT_STD, linear
from model.layers.norms import norm
from model.layers.numerics import Numerics
from model.layers.sharding import constrain
from model.layers.short_convolution import DepthwiseConvolution
from model.sound import SoundModel, is_rotary

CONVOLUTION_NORMS = ("batch_norm", "layer_norm")
NORM_EPSILON = 1e-5


class ConvolutionModule(nnx.Module):
    """The convolution module: out(swish(norm(depthwise(value(x) · sigmoid(gate(x)))))) (section 2.2
    of the paper). The paper's layer norm before it and dropout after it are in `ConformerBlock`.

    `size`: the kernel size of the depthwise convolution.
    `kind`: the norm, "batch_norm" (its statistics exclude padding) or "layer_norm".
    `residual_std`: the standard deviation of the output kernel's initial values.

    Raises ValueError for an unknown norm.
    """

    def __init__(
        self,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        size: int,
        kind: str,
        residual_std: float,
    ):
        if kind not in CONVOLUTION_NORMS:
            raise ValueError(f"convolution_norm {kind!r}: choose from {CONVOLUTION_NORMS}")
        axes = ("embed", "channels_out")
        self.value = linear(width, width, axes, numerics, rngs, use_bias=True)
        self.gate = linear(width, width, axes, numerics, rngs, use_bias=True)
        self.has_batch_norm = kind == "batch_norm"
        self.depthwise = DepthwiseConvolution(
            width,
            numerics,
            rngs,
            size=size,
            causal=False,
            axis="channels_out",
            use_bias=not self.has_batch_norm,  # batch norm adds its own bias
        )
        if self.has_batch_norm:
            self.norm: nnx.Module = batch_norm(width, numerics, rngs)
        else:
            self.norm = norm(kind, width, numerics, rngs, epsilon=NORM_EPSILON, use_bias=True)
        self.out = linear(
            width, width, ("channels_out", "embed"), numerics, rngs, std=residual_std, use_bias=True
        )

    def __call__(self, x_BTD: jax.Array, *, segments_BT: jax.Array, train: bool) -> jax.Array:
        """Map [B, T, D] to [B, T, D]. Positions of segment 0 are padding: they are set to zero
        before the depthwise convolution."""
        real_BT = segments_BT != 0
        value_BTC = constrain(self.value(x_BTD), "batch", "length", "channels_out")
        gate_BTC = constrain(self.gate(x_BTD), "batch", "length", "channels_out")
        x_BTC = jnp.where(real_BT[:, :, None], value_BTC * nnx.sigmoid(gate_BTC), 0)
        x_BTC, _ = self.depthwise(x_BTC)
        if self.has_batch_norm:
            x_BTC = self.norm(x_BTC, use_running_average=not train, real=real_BT)
        else:
            x_BTC = self.norm(x_BTC)
        return constrain(self.out(captured(nnx.silu(x_BTC))), "batch", "length", "width")


class ConformerBlock(nnx.Module):
    """Feed-forward, attention, convolution module and second feed-forward, then a norm (eq. 1 of
    the paper). Each part has a norm before it and a residual connection; the outputs of the
    feed-forward parts are halved.

    `feed_forward_width` None means 4 · width.

    `attention`: other keyword arguments of `model.layers.attention.Attention`.
    """

    def __init__(
        self,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        feed_forward_width: int | None,
        convolution_size: int,
        convolution_norm: str,
        dropout: float,
        residual_std: float,
        **attention: Any,
    ):
        std: dict[str, Any] = {"residual_std": residual_std}

        def layer_norm() -> nnx.Module:
            return norm("layer_norm", width, numerics, rngs, epsilon=NORM_EPSILON, use_bias=True)

        def feed_forward() -> FeedForward:
            return FeedForward(
                "swish", width, feed_forward_width, numerics, rngs, use_bias=True, **std
            )

        self.first_norm, self.attention_norm = layer_norm(), layer_norm()
        self.convolution_norm, self.second_norm, self.norm = (layer_norm() for _ in range(3))
        self.first = feed_forward()
        self.attention = Attention(
            width, numerics, rngs, causal=False, use_bias=False, **attention, **std
        )
        self.convolution = ConvolutionModule(
            width, numerics, rngs, size=convolution_size, kind=convolution_norm, **std
        )
        self.second = feed_forward()
        self.dropout_rate = dropout

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """Map [B, T, D] to [B, T, D]; positions of segment 0 are padding."""
        keys = split_key(dropout_key, 4)

        def dropped(y_BTD: jax.Array, part: int) -> jax.Array:
            return apply_dropout(y_BTD, self.dropout_rate, keys[part])

        x_BTD = x_BTD + 0.5 * dropped(self.first(self.first_norm(x_BTD)), 0)
        attended_BTD, _ = self.attention(self.attention_norm(x_BTD), segments_BT=segments_BT)
        x_BTD = x_BTD + dropped(attended_BTD, 1)
        convolved_BTD = self.convolution(
            self.convolution_norm(x_BTD), segments_BT=segments_BT, train=train
        )
        x_BTD = x_BTD + dropped(convolved_BTD, 2)
        x_BTD = x_BTD + 0.5 * dropped(self.second(self.second_norm(x_BTD)), 3)
        return self.norm(x_BTD)


class Conformer(SoundModel):
    """A stack of `depth` Conformer blocks.

    Takes the hyperparameters of `SoundModel` and `ConformerBlock`, `positions` ("rotary" or "none")
    and `attention` (the `implementation` argument of `model.layers.attend.attend`).
    """

    def make_body(
        self,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        width: int,
        depth: int,
        attention_window: int | None,
        attention: str,
        positions: str,
        rotary_base: float,
        **block: Any,
    ) -> None:
        block |= {
            "window": attention_window,
            "implementation": attention,
            "rotary_base": rotary_base if is_rotary(positions) else None,
            "residual_std": WEIGHT_STD / (4 * depth) ** 0.5,
        }
        self.blocks = nnx.List(
            [ConformerBlock(width, numerics, rngs, **block) for _ in range(depth)]
        )

    def body(
        self, x_BUD: jax.Array, segments_BU: jax.Array, dropout_key: jax.Array | None, train: bool
    ) -> jax.Array:
        for number, block in enumerate(self.blocks):
            key = fold_key(dropout_key, number)
            x_BUD = block(x_BUD, segments_BT=segments_BU, dropout_key=key, train=train)
        return x_BUD
