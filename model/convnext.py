"""ConvNeXt: a convolutional network of blocks like a transformer's.

Initial values: all kernels normal, 0.02, biases 0, scales 1, scales of the layers 1e-6.

Axes: B batch, H height, W width, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from model.layers.convolution import convolution, global_average_pool
from model.layers.dropout import drop_examples
from model.layers.feed_forward import FeedForward
from model.layers.linear import WEIGHT_STD, class_head
from model.layers.norms import norm
from model.layers.sharding import constrain, named
from model.pictures import normalized

KERNEL_SIZE = 7
LAYER_SCALE = 1e-6
NORM_EPSILON = 1e-6


class Block(nnx.Module):
    """x + scale · feed_forward(norm(depthwise(x)))."""

    def __init__(
        self,
        channels: int,
        *,
        stochastic_depth: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.depthwise = convolution(
            channels,
            channels,
            kernel_size=KERNEL_SIZE,
            groups=channels,
            use_bias=True,
            std=WEIGHT_STD,
            **numbers,
        )
        self.norm = norm("layer_norm", channels, epsilon=NORM_EPSILON, use_bias=True, **numbers)
        self.feed_forward = FeedForward(
            "gelu", channels, 4 * channels, use_bias=True, residual_std=WEIGHT_STD, **numbers
        )
        scale_C = jnp.full(channels, LAYER_SCALE, jnp.dtype(param_dtype))
        self.scale = nnx.Param(scale_C, **named("norm"))
        self.stochastic_depth, self.dtype = stochastic_depth, jnp.dtype(dtype)

    def __call__(self, x_BHWC: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        y_BHWC = constrain(self.depthwise(x_BHWC), "batch", None, None, "channels_out")
        B, H, W, C = y_BHWC.shape
        y_BTC = self.feed_forward(self.norm(y_BHWC).reshape(B, H * W, C))
        y_BTC = y_BTC * self.scale[...].astype(self.dtype)
        if dropout_key is not None and self.stochastic_depth:
            y_BTC = drop_examples(y_BTC, self.stochastic_depth, dropout_key)
        return x_BHWC + y_BTC.reshape(B, H, W, C)


class ConvNeXt(nnx.Module):
    """Liu et al. 2022, arXiv:2201.03545: patches of `patch_size`, then a stage for each of
    `channels`, of as many blocks as `depths` says; between two of them the sides are halved.

    `stochastic_depth` is the rate of the last block, in proportion less before it.
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
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        rates = iter(np.linspace(0, stochastic_depth, sum(depths)).tolist())
        inputs, size = image_shape[2], patch_size
        downsamplings, norms, blocks = [], [], []
        for outputs, depth in zip(channels, depths, strict=True):
            downsamplings.append(
                convolution(
                    inputs,
                    outputs,
                    kernel_size=size,
                    strides=size,
                    use_bias=True,
                    std=WEIGHT_STD,
                    **numbers,
                )
            )
            # After the first one, and before the others.
            normed = inputs if norms else outputs
            norms.append(norm("layer_norm", normed, epsilon=NORM_EPSILON, use_bias=True, **numbers))
            stage = [Block(outputs, stochastic_depth=next(rates), **numbers) for _ in range(depth)]
            blocks.append(nnx.List(stage))
            inputs, size = outputs, 2
        self.downsamplings, self.norms = nnx.List(downsamplings), nnx.List(norms)
        self.stages = nnx.List(blocks)
        self.norm = norm("layer_norm", inputs, epsilon=NORM_EPSILON, use_bias=True, **numbers)
        self.classes = class_head(inputs, num_classes, **numbers)
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Pictures, uint8 0..255 or floats 0..1 -> logits, float32 [B, classes]; the same in
        training and after it, but for stochastic depth, which acts only where a key is given."""
        x_BHWC, place = 2 * normalized(image_BHWC, self.dtype) - 1, 0
        parts = zip(self.downsamplings, self.norms, self.stages, strict=True)
        for number, (smaller, normal, blocks) in enumerate(parts):
            x_BHWC = normal(smaller(x_BHWC)) if number == 0 else smaller(normal(x_BHWC))
            x_BHWC = constrain(x_BHWC, "batch", None, None, "channels_out")
            for block in blocks:
                key = None if dropout_key is None else jax.random.fold_in(dropout_key, place)
                x_BHWC, place = block(x_BHWC, key), place + 1
        x_BC = self.norm(global_average_pool(x_BHWC))
        return constrain(self.classes(x_BC).astype(jnp.float32), "batch", "classes")
