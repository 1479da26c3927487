"""The Conformer: attention and convolution in each block, for sound.

After Gulati et al. 2020, arXiv:2005.08100; attention has rotary positions, or none, where the
paper has relative ones, and no biases.

Initial values as in model/sound.py; what leads back to the width, of the four parts of each of L
blocks: normal, 0.02 / sqrt(4 L).

Axes: B batch, T length, D width, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.activations import captured
from model.layers.attention import Attention
from model.layers.convolution import batch_norm
from model.layers.dropout import dropout as drop
from model.layers.feed_forward import FeedForward
from model.layers.linear import WEIGHT_STD, linear
from model.layers.norms import norm
from model.layers.sharding import constrain
from model.layers.short_convolution import DepthwiseConvolution
from model.sound import SoundModel, is_rotary

CONVOLUTION_NORMS = ("batch_norm", "layer_norm")
BATCH_NORM_MOMENTUM = 0.9  # statistics of the last few dozen steps: runs may be short
NORM_EPSILON = 1e-5


class ConvolutionModule(nnx.Module):
    """out(swish(norm(depthwise(value(x) · sigmoid(gate(x)))))): section 2.2 of the paper, without
    its first norm and its dropout, which all parts of a block have.

    `kind`: "batch_norm", whose statistics leave padding out, or "layer_norm".
    """

    def __init__(
        self,
        width: int,
        *,
        size: int,
        kind: str,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if kind not in CONVOLUTION_NORMS:
            raise ValueError(f"convolution_norm {kind!r}: choose from {CONVOLUTION_NORMS}")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inward = ((width,), (width,), ("embed", "channels_out"))
        self.value = linear(*inward, use_bias=True, **numbers)
        self.gate = linear(*inward, use_bias=True, **numbers)
        self.has_batch_norm = kind == "batch_norm"
        self.depthwise = DepthwiseConvolution(
            width,
            size=size,
            causal=False,
            axis="channels_out",
            use_bias=not self.has_batch_norm,  # which has one itself
            **numbers,
        )
        if self.has_batch_norm:
            self.norm = batch_norm(width, momentum=BATCH_NORM_MOMENTUM, **numbers)
        else:
            self.norm = norm(kind, width, epsilon=NORM_EPSILON, use_bias=True, **numbers)
        self.out = linear(
            (width,),
            (width,),
            ("channels_out", "embed"),
            std=residual_std,
            use_bias=True,
            **numbers,
        )

    def __call__(self, x_BTD: jax.Array, *, segments_BT: jax.Array, train: bool) -> jax.Array:
        """[B, T, D] -> [B, T, D]; padding, of segment 0, is zero where others see it."""
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
    """Half a feed-forward part, attention, the convolution module, the other half, each added to
    what it is given, normalised; then a norm of the sum (eq. 1)."""

    def __init__(
        self,
        width: int,
        *,
        feed_forward_width: int,
        convolution_size: int,
        convolution_norm: str,
        dropout: float,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        **attention: Any,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        projections = {"residual_std": residual_std, **numbers}

        def layer_norm() -> nnx.Module:
            return norm("layer_norm", width, epsilon=NORM_EPSILON, use_bias=True, **numbers)

        self.first_norm, self.attention_norm = layer_norm(), layer_norm()
        self.convolution_norm, self.second_norm, self.norm = (layer_norm() for _ in range(3))
        self.first = FeedForward("swish", width, feed_forward_width, use_bias=True, **projections)
        self.attention = Attention(width, causal=False, use_bias=False, **attention, **projections)
        self.convolution = ConvolutionModule(
            width,
            size=convolution_size,
            kind=convolution_norm,
            residual_std=residual_std,
            **numbers,
        )
        self.second = FeedForward("swish", width, feed_forward_width, use_bias=True, **projections)
        self.dropout_rate = dropout

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]; positions of segment 0 are padding."""
        keys = [None] * 4 if dropout_key is None else jax.random.split(dropout_key, 4)

        def dropped(y_BTD: jax.Array, part: int) -> jax.Array:
            return drop(y_BTD, self.dropout_rate, keys[part])

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
    """`depth` Conformer blocks on a recording.

    None for `num_kv_heads` means `num_heads`; for `head_dim`, width // num_heads; for
    `feed_forward_width`, 4 width; for `attention_window`, the whole recording. `attention`: the
    implementation, as in `model.layers.attend`. `sound`: the other arguments of `SoundModel`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        num_kv_heads: int | None,
        head_dim: int | None,
        attention_window: int | None,
        attention: str,
        positions: str,
        rotary_base: float,
        feed_forward_width: int | None,
        convolution_size: int,
        convolution_norm: str,
        dropout: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        **sound: Any,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(width=width, dropout=dropout, **sound, **numbers)
        block = {
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads or num_heads,
            "head_dim": head_dim or width // num_heads,
            "window": attention_window,
            "implementation": attention,
            "rotary_base": rotary_base if is_rotary(positions) else None,
            "feed_forward_width": feed_forward_width or 4 * width,
            "convolution_size": convolution_size,
            "convolution_norm": convolution_norm,
            "dropout": dropout,
            "residual_std": WEIGHT_STD / (4 * depth) ** 0.5,
        }
        self.blocks = nnx.List([ConformerBlock(width, **block, **numbers) for _ in range(depth)])

    def body(
        self,
        x_BUD: jax.Array,
        *,
        segments_BU: jax.Array,
        dropout_key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        for number, block in enumerate(self.blocks):
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
            x_BUD = block(x_BUD, segments_BT=segments_BU, dropout_key=key, train=train)
        return x_BUD
