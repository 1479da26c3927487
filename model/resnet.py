"""Residual networks for pictures.

Initial values: convolutions He normal; scales 1, but 0 for the last norm of a block, so that it
starts as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1); the classes 0.

Axes: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.activations import captured
from model.layers.convolution import (
    SqueezeExcitation,
    batch_norm,
    convolution,
    global_average_pool,
    max_pool,
)
from model.layers.dropout import dropout as drop
from model.layers.linear import class_head
from model.layers.sharding import constrain
from model.pictures import normalized

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage, by the depth."""

SMALL_PICTURE = 64
"""Up to so many pixels a side, a picture is not made smaller before the first stage."""

BATCH_NORM_MOMENTUM = 0.9


class Block(nnx.Module):
    """relu(shortcut(x) + branch(x)); the branch is two convolutions of 3 x 3, or with `bottleneck`
    one of 3 x 3 between two of 1 x 1, the last with four times the channels, the stride at the
    3 x 3. The shortcut is x, or a convolution of 1 x 1 where the shape changes."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        strides: int,
        bottleneck: bool,
        squeeze_excitation: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels_out = 4 * channels if bottleneck else channels
        plan = [(channels, 3, strides), (channels, 3, 1)]
        if bottleneck:
            plan = [(channels, 1, 1), (channels, 3, strides), (channels_out, 1, 1)]
        inputs = [channels_in, *(outputs for outputs, _, _ in plan)]
        self.convolutions = nnx.List(
            [
                _convolution(channels, outputs, size, stride, **numbers)
                for channels, (outputs, size, stride) in zip(inputs, plan, strict=False)
            ]
        )
        self.norms = nnx.List(
            [
                _norm(outputs, scale=float(number < len(plan) - 1), **numbers)
                for number, (outputs, _, _) in enumerate(plan)
            ]
        )
        self.excitation = self.shortcut = self.shortcut_norm = nnx.data(None)
        if squeeze_excitation:
            self.excitation = SqueezeExcitation(channels_out, **numbers)
        if strides > 1 or channels_in != channels_out:
            self.shortcut = _convolution(channels_in, channels_out, 1, strides, **numbers)
            self.shortcut_norm = _norm(channels_out, scale=1.0, **numbers)

    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, channels_in] -> [B, H / strides, W / strides, channels_out]."""

        def apply(layer, norm, x_BHWC):
            x_BHWC = constrain(layer(x_BHWC), "batch", None, None, "channels_out")
            return norm(x_BHWC, use_running_average=not train)

        y_BHWC = x_BHWC
        for number, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y_BHWC = y_BHWC if number == 0 else captured(nnx.relu(y_BHWC))
            y_BHWC = apply(layer, norm, y_BHWC)
        if self.excitation is not None:
            y_BHWC = self.excitation(y_BHWC)
        if self.shortcut is not None:
            x_BHWC = apply(self.shortcut, self.shortcut_norm, x_BHWC)
        return captured(nnx.relu(x_BHWC + y_BHWC))


class ResNet(nnx.Module):
    """He et al. 2016, arXiv:1512.03385, table 1; the stride of a bottleneck at its 3 x 3.

    `stem`: "large", a convolution of 7 x 7 and a pooling that make a quarter of each side;
    "small", a convolution of 3 x 3 that keeps it (their section 4.2); "auto" for pictures of up to
    64 pixels the small one. `width`: channels of the first stage, doubled by each other one.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        stem: str,
        squeeze_excitation: bool,
        dropout: float,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if depth not in STAGES:
            raise ValueError(f"depth {depth}: choose from {sorted(STAGES)}")
        if stem not in ("auto", "small", "large"):
            raise ValueError(f"stem {stem!r}: choose 'auto', 'small' or 'large'")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        *size, image_channels = image_shape
        self.large_stem = stem == "large" or (stem == "auto" and max(size) > SMALL_PICTURE)
        kernel, strides = (7, 2) if self.large_stem else (3, 1)
        self.stem = _convolution(image_channels, width, kernel, strides, **numbers)
        self.stem_norm = _norm(width, scale=1.0, **numbers)
        bottleneck, channels_in, blocks = depth >= 50, width, []
        for stage, count in enumerate(STAGES[depth]):
            channels = width * 2**stage
            for number in range(count):
                block = Block(
                    channels_in,
                    channels,
                    strides=2 if stage and not number else 1,
                    bottleneck=bottleneck,
                    squeeze_excitation=squeeze_excitation,
                    **numbers,
                )
                channels_in = 4 * channels if bottleneck else channels
                blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.classes = class_head(channels_in, num_classes, std=0.0, **numbers)
        self.dropout_rate, self.dtype = dropout, jnp.dtype(dtype)

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Pictures, uint8 0..255 or floats 0..1 -> logits, float32 [B, classes].

        `train`: batch norm uses the statistics of this batch and updates its running ones;
        otherwise it uses the running ones. Dropout acts only where a key is given.
        """
        x_BHWC = self.stem(2 * normalized(image_BHWC, self.dtype) - 1)
        x_BHWC = constrain(x_BHWC, "batch", None, None, "channels_out")
        x_BHWC = captured(nnx.relu(self.stem_norm(x_BHWC, use_running_average=not train)))
        if self.large_stem:
            x_BHWC = max_pool(x_BHWC, size=3, strides=2, padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x_BHWC = block(x_BHWC, train=train)
        x_BC = drop(global_average_pool(x_BHWC), self.dropout_rate, dropout_key)
        return constrain(self.classes(x_BC).astype(jnp.float32), "batch", "classes")


def _convolution(inputs: int, outputs: int, size: int, strides: int, **numbers) -> nnx.Conv:
    edge = size // 2
    padding = ((edge, edge), (edge, edge))
    return convolution(
        inputs,
        outputs,
        kernel_size=size,
        strides=strides,
        padding=padding,
        use_bias=False,
        **numbers,
    )


def _norm(channels: int, *, scale: float, **numbers) -> nnx.Module:
    return batch_norm(channels, momentum=BATCH_NORM_MOMENTUM, scale=scale, **numbers)
