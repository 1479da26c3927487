"""Residual networks for images.

Initial values: convolutions He normal; norm scales 1, but with `zero_init_residual` 0 for the last
norm of a block, so that the block starts as the identity (Goyal et al. 2017, arXiv:1706.02677,
section 5.1); classifier normal with variance 1 / (3 · its inputs), as much as PyTorch's.

Axes: B batch, H height, W width, C channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from model.layers.activations import captured
from model.layers.convolution import (
    SqueezeExcitation,
    batch_norm,
    convolution,
    global_average_pool,
    max_pool,
)
from model.layers.dropout import apply_dropout
from model.layers.linear import logits_head
from model.layers.numerics import Numerics
from model.layers.sharding import constrain
from model.pictures import standardized
from model.resnet_stages import EXPANSION, STAGES, WITHOUT_BOTTLENECK, has_large_stem


class Block(nnx.Module):
    """A residual block: relu(shortcut(x) + branch(x)).

    The branch is two 3 x 3 convolutions; with `bottleneck`, a 1 x 1, a 3 x 3 and a 1 x 1
    convolution, the last with four times the channels. A batch norm follows each convolution; a
    ReLU follows each but the last. `strides` are those of the first 3 x 3 convolution. The shortcut
    is x, or a 1 x 1 convolution if the shape changes.

    `squeeze_excitation`: whether the branch ends with `SqueezeExcitation`.
    `zero_init`: whether the scale of the last norm starts at 0.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        strides: int,
        bottleneck: bool,
        squeeze_excitation: bool,
        zero_init: bool,
    ):
        channels_out = EXPANSION * channels if bottleneck else channels
        plan = [(channels, 3, strides), (channels, 3, 1)]
        if bottleneck:
            plan = [(channels, 1, 1), (channels, 3, strides), (channels_out, 1, 1)]
        inputs = [channels_in, *(outputs for outputs, _, _ in plan)]
        scales = [1.0] * (len(plan) - 1) + [0.0 if zero_init else 1.0]
        self.convolutions = nnx.List(
            [
                _convolution(channels, outputs, size, stride, numerics, rngs)
                for channels, (outputs, size, stride) in zip(inputs, plan, strict=False)
            ]
        )
        self.norms = nnx.List(
            [
                batch_norm(outputs, numerics, rngs, scale=scale)
                for (outputs, _, _), scale in zip(plan, scales, strict=True)
            ]
        )
        self.excitation = self.shortcut = self.shortcut_norm = nnx.data(None)
        if squeeze_excitation:
            self.excitation = SqueezeExcitation(channels_out, numerics, rngs)
        if strides > 1 or channels_in != channels_out:
            self.shortcut = _convolution(channels_in, channels_out, 1, strides, numerics, rngs)
            self.shortcut_norm = batch_norm(channels_out, numerics, rngs)

    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Map [B, H, W, channels_in] to [B, H / strides, W / strides, channels_out]."""

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
    """The residual network of He et al. 2016, arXiv:1512.03385, table 1.

    `depth`: a key of `STAGES`. Deeper networks than 34, and 26, have bottleneck blocks, with the
        stride in the 3 x 3 convolution.
    `width`: the number of channels in the first stage; each later stage doubles it.
    `stem`: "large", a 7 x 7 convolution and a max pooling, each of stride 2; "small", a 3 x 3
        convolution of stride 1 (section 4.2); "auto", "small" for images of up to 64 pixels a side,
        otherwise "large".
    `zero_init_residual`: whether the last norm of each block starts with a scale of 0.
    `image_shape`: (height, width, channels).
    `pixel_mean`, `pixel_std`: as in `model.pictures.standardized`.

    Raises ValueError for an unknown depth or stem.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        stem: str,
        squeeze_excitation: bool,
        zero_init_residual: bool,
        dropout: float,
        num_classes: int,
        image_shape: tuple[int, int, int],
        numerics: Numerics,
        rngs: nnx.Rngs,
        pixel_mean: Sequence[float] = (0.5,),
        pixel_std: Sequence[float] = (0.5,),
    ):
        if depth not in STAGES:
            raise ValueError(f"depth {depth}: choose from {sorted(STAGES)}")
        if stem not in ("auto", "small", "large"):
            raise ValueError(f"stem {stem!r}: choose 'auto', 'small' or 'large'")
        *size, image_channels = image_shape
        self.large_stem = has_large_stem(stem, size)
        kernel, strides = (7, 2) if self.large_stem else (3, 1)
        self.stem = _convolution(image_channels, width, kernel, strides, numerics, rngs)
        self.stem_norm = batch_norm(width, numerics, rngs)
        bottleneck, channels_in, blocks = depth not in WITHOUT_BOTTLENECK, width, []
        for stage, count in enumerate(STAGES[depth]):
            channels = width * 2**stage
            for number in range(count):
                block = Block(
                    channels_in,
                    channels,
                    numerics,
                    rngs,
                    strides=2 if stage and not number else 1,
                    bottleneck=bottleneck,
                    squeeze_excitation=squeeze_excitation,
                    zero_init=zero_init_residual,
                )
                channels_in = EXPANSION * channels if bottleneck else channels
                blocks.append(block)
        self.blocks = nnx.List(blocks)
        std = (3 * channels_in) ** -0.5
        self.classes = logits_head(
            channels_in, num_classes, ("embed", "classes"), numerics, rngs, std=std
        )
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.dropout_rate, self.dtype = dropout, numerics.dtype

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map images [B, H, W, C], uint8 0..255 or floats 0..1, to logits, float32 [B, classes].

        With `train`, batch norm uses the batch's statistics and updates the running statistics;
        otherwise it uses the running statistics. Dropout is applied only if `dropout_key` is given.
        """
        x_BHWC = standardized(image_BHWC, self.pixel_mean, self.pixel_std, self.dtype)
        x_BHWC = self.stem(x_BHWC)
        x_BHWC = constrain(x_BHWC, "batch", None, None, "channels_out")
        x_BHWC = captured(nnx.relu(self.stem_norm(x_BHWC, use_running_average=not train)))
        if self.large_stem:
            x_BHWC = max_pool(x_BHWC, size=3, strides=2, padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x_BHWC = block(x_BHWC, train=train)
        x_BC = apply_dropout(global_average_pool(x_BHWC), self.dropout_rate, dropout_key)
        return constrain(self.classes(x_BC), "batch", "classes")


def _convolution(
    inputs: int, outputs: int, size: int, strides: int, numerics: Numerics, rngs: nnx.Rngs
) -> nnx.Conv:
    """Make a convolution of `size` x `size` without a bias, padded by size // 2 on every side."""
    padding = ((size // 2, size // 2),) * 2
    options: dict[str, Any] = {"kernel_size": size, "strides": strides, "padding": padding}
    return convolution(inputs, outputs, numerics, rngs, use_bias=False, **options)
