"""A small convolutional image classifier.

Initial values: convolutions and the dense layer He normal; the kernel of the class logits normal,
0.02; scales 1; biases 0.

Axes: B batch, H height, W width, C channels, F features; logits are [B, classes].
"""

from collections.abc import Sequence

import jax
from flax import nnx

from model.layers.activations import captured
from model.layers.convolution import batch_norm, convolution, max_pool
from model.layers.dropout import apply_dropout
from model.layers.linear import linear, logits_head
from model.layers.numerics import Numerics
from model.layers.sharding import constrain
from model.pictures import normalized


class Stage(nnx.Module):
    """Convolution, batch norm, ReLU, and max pooling that halves height and width."""

    def __init__(self, channels_in: int, channels_out: int, numerics: Numerics, rngs: nnx.Rngs):
        self.convolution = convolution(
            channels_in, channels_out, numerics, rngs, kernel_size=3, use_bias=False
        )
        self.norm = batch_norm(channels_out, numerics, rngs)

    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Map [B, H, W, channels_in] to [B, ceil(H/2), ceil(W/2), channels_out]."""
        x_BHWC = constrain(self.convolution(x_BHWC), "batch", None, None, "channels_out")
        x_BHWC = self.norm(x_BHWC, use_running_average=not train)
        return max_pool(captured(nnx.relu(x_BHWC)))


class CNN(nnx.Module):
    """One `Stage` per entry of `channels`, a dense layer of `width` units on the flattened feature
    map, and a linear layer to class logits. `image_shape`: (height, width, channels)."""

    def __init__(
        self,
        *,
        channels: Sequence[int],
        width: int,
        dropout: float,
        num_classes: int,
        image_shape: tuple[int, int, int],
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        *size, image_channels = image_shape
        self.stages = nnx.List(
            [
                Stage(inputs, outputs, numerics, rngs)
                for inputs, outputs in zip((image_channels, *channels), channels, strict=False)
            ]
        )
        height, width_of_grid = (-(-side // 2 ** len(channels)) for side in size)
        features = height * width_of_grid * channels[-1]
        axes, he_normal = ("embed", "mlp"), (2 / features) ** 0.5
        self.dense = linear(features, width, axes, numerics, rngs, std=he_normal, use_bias=True)
        self.classes = logits_head(width, num_classes, ("mlp", "classes"), numerics, rngs)
        self.dropout_rate, self.dtype = dropout, numerics.dtype

    def __call__(
        self, image_BHWC: jax.Array, *, train: bool, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map images [B, H, W, C], uint8 0..255 or floats 0..1, to logits, float32 [B, classes].

        With `train`, batch norm uses the batch's statistics and updates the running statistics;
        otherwise it uses the running statistics. Dropout is applied only if `dropout_key` is given.
        """
        x_BHWC = normalized(image_BHWC, self.dtype)
        for stage in self.stages:
            x_BHWC = stage(x_BHWC, train=train)
        x_BF = captured(nnx.relu(self.dense(x_BHWC.reshape(x_BHWC.shape[0], -1))))
        x_BF = apply_dropout(constrain(x_BF, "batch", "mlp"), self.dropout_rate, dropout_key)
        return constrain(self.classes(x_BF), "batch", "classes")
