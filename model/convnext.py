"""ConvNeXt: a convolutional network whose blocks resemble a transformer's.

Initial values: all kernels normal, 0.02; biases 0; scales of norms 1; layer scales 1e-6; scales of
global response norms 0.

Axes: B batch, H height, W width, C channels, T pixels (H · W), F feed-forward width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.layers.convolution import convolution, global_average_pool
from model.layers.dropout import drop_examples, fold_key
from model.layers.feed_forward import FeedForward
from model.layers.linear import WEIGHT_STD, logits_head
from model.layers.norms import norm
from model.layers.numerics import Numerics
from model.layers.sharding import constrain, named
from model.pictures import standardized

KERNEL_SIZE = 7
LAYER_SCALE = 1e-6
NORM_EPSILON = 1e-6

_convolution = functools.partial(convolution, use_bias=True, std=WEIGHT_STD)
_layer_norm = functools.partial(norm, "layer_norm", use_bias=True)


class GlobalResponseNorm(nnx.Module):
    """Global response normalisation: x + scale · x · r + bias, where r is the norm of a channel
    over all pixels, divided by the mean of these norms over the channels (Woo et al. 2023,
    arXiv:2301.00808, section 3.2)."""

    def __init__(self, channels: int, numerics: Numerics):
        zero_F = jnp.zeros(channels, numerics.param_dtype)
        self.scale = nnx.Param(zero_F, **named("mlp"))
        self.bias = nnx.Param(zero_F, **named("mlp"))
        self.dtype = numerics.dtype

    def __call__(self, x_BTF: jax.Array) -> jax.Array:
        """Map [B, T, F] to [B, T, F], with statistics in float32."""
        x_float32 = x_BTF.astype(jnp.float32)
        norm_B1F = jnp.sqrt(jnp.sum(jnp.square(x_float32), axis=1, keepdims=True))
        mean_B11 = jnp.mean(norm_B1F, axis=-1, keepdims=True)
        response_B1F = norm_B1F / (mean_B11 + NORM_EPSILON)
        y_BTF = x_float32 * (1 + self.scale[...] * response_B1F) + self.bias[...]
        return y_BTF.astype(self.dtype)


class Block(nnx.Module):
    """A residual block: x + scale · feed_forward(norm(depthwise(x))), with a learned `scale` for
    each channel. With `response_norm`, it has no scale; the hidden units of the feed-forward part
    go through a `GlobalResponseNorm`."""

    def __init__(
        self,
        channels: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        stochastic_depth: float,
        response_norm: bool,
    ):
        self.depthwise = _convolution(
            channels, channels, numerics, rngs, kernel_size=KERNEL_SIZE, groups=channels
        )
        self.norm = _layer_norm(channels, numerics, rngs, epsilon=NORM_EPSILON)
        self.feed_forward = FeedForward(
            "gelu", channels, 4 * channels, numerics, rngs, use_bias=True, residual_std=WEIGHT_STD
        )
        self.scale = self.response_norm = nnx.data(None)
        if response_norm:
            self.response_norm = GlobalResponseNorm(4 * channels, numerics)
        else:
            scale_C = jnp.full(channels, LAYER_SCALE, numerics.param_dtype)
            self.scale = nnx.Param(scale_C, **named("norm"))
        self.stochastic_depth, self.dtype = stochastic_depth, numerics.dtype

    def __call__(self, x_BHWC: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Map [B, H, W, C] to [B, H, W, C]."""
        y_BHWC = constrain(self.depthwise(x_BHWC), "batch", None, None, "channels_out")
        B, H, W, C = y_BHWC.shape
        y_BTC = self.norm(y_BHWC).reshape(B, H * W, C)
        if self.response_norm is not None:
            h_BTF = self.response_norm(self.feed_forward.hidden(y_BTC))
            y_BTC = self.feed_forward.down(constrain(h_BTF, "batch", "length", "mlp"))
        else:
            y_BTC = self.feed_forward(y_BTC)
        if self.scale is not None:
            y_BTC = y_BTC * self.scale[...].astype(self.dtype)
        if dropout_key is not None and self.stochastic_depth:
            y_BTC = drop_examples(y_BTC, self.stochastic_depth, dropout_key)
        return x_BHWC + y_BTC.reshape(B, H, W, C)


class ConvNeXt(nnx.Module):
    """ConvNeXt (Liu et al. 2022, arXiv:2201.03545).

    First a convolution over patches of side `patch_size`, then the stages, with a convolution of
    stride 2 between them. Stage i has `depths[i]` blocks of `channels[i]` channels.

    `stochastic_depth`: the drop rate of the last block; the rate grows linearly from 0 at the first
        block.
    `response_norm`: whether blocks have global response norms in place of layer scales, as in
        ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808).
    `head_norm_epsilon`: the epsilon of the last norm; that of the others is 1e-6.
    `image_shape`: (height, width, channels).
    `pixel_mean`, `pixel_std`: as in `model.pictures.standardized`.
    """

    def __init__(
        self,
        *,
        patch_size: int,
        channels: Sequence[int],
        depths: Sequence[int],
        stochastic_depth: float,
        num_classes: int,
        image_shape: tuple[int, int, int],
        numerics: Numerics,
        rngs: nnx.Rngs,
        response_norm: bool = False,
        head_norm_epsilon: float = NORM_EPSILON,
        pixel_mean: Sequence[float] = (0.5,),
        pixel_std: Sequence[float] = (0.5,),
    ):
        make_block = functools.partial(Block, response_norm=response_norm)
        rates = iter(np.linspace(0, stochastic_depth, sum(depths)).tolist())
        inputs, size = image_shape[2], patch_size
        downsamplings, blocks = [], []
        norms: list[nnx.Module] = []
        for outputs, depth in zip(channels, depths, strict=True):
            downsamplings.append(
                _convolution(inputs, outputs, numerics, rngs, kernel_size=size, strides=size)
            )
            # The norm comes after the first downsampling and before each later one.
            normal = inputs if norms else outputs
            norms.append(_layer_norm(normal, numerics, rngs, epsilon=NORM_EPSILON))
            stage = [
                make_block(outputs, numerics, rngs, stochastic_depth=next(rates))
                for _ in range(depth)
            ]
            blocks.append(nnx.List(stage))
            inputs, size = outputs, 2
        self.downsamplings, self.norms = nnx.List(downsamplings), nnx.List(norms)
        self.stages = nnx.List(blocks)
        self.norm = _layer_norm(inputs, numerics, rngs, epsilon=head_norm_epsilon)
        self.classes = logits_head(inputs, num_classes, ("embed", "classes"), numerics, rngs)
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.dtype = numerics.dtype

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map images [B, H, W, C], uint8 0..255 or floats 0..1, to logits, float32 [B, classes].

        `train` has no effect. Stochastic depth is applied only if `dropout_key` is given.
        """
        x_BHWC = standardized(image_BHWC, self.pixel_mean, self.pixel_std, self.dtype)
        index = 0
        parts = zip(self.downsamplings, self.norms, self.stages, strict=True)
        for stage, (downsample, normal, blocks) in enumerate(parts):
            x_BHWC = normal(downsample(x_BHWC)) if stage == 0 else downsample(normal(x_BHWC))
            x_BHWC = constrain(x_BHWC, "batch", None, None, "channels_out")
            for block in blocks:
                key = fold_key(dropout_key, index)
                x_BHWC, index = block(x_BHWC, key), index + 1
        x_BC = self.norm(global_average_pool(x_BHWC))
        return constrain(self.classes(x_BC), "batch", "classes")
