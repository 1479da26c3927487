"""Convolution in one and two dimensions, its normalisation, and pooling.

Axes: B batch, H height, W width, C channels; one-dimensional: B batch, T length, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.linear import linear
from model.layers.sharding import AXES, constrain, named

Padding = str | Sequence[tuple[int, int]]


def convolution(
    channels_in: int,
    channels_out: int,
    *,
    kernel_size: int | tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Padding = "SAME",
    std: float | None = None,
    use_bias: bool,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution [B, H, W, channels_in] -> [B, H', W', channels_out]; an integer for
    `kernel_size` is a square one, (size,) one along a sequence [B, T, channels_in].

    `padding`: "SAME" keeps the size (with strides, their part of it, rounded up), "VALID" has none,
    "CAUSAL" pads before the first position alone; or the zeros before and after, a pair for each
    dimension. `groups` of channels do not see each other; as many as channels: depthwise.
    Kernel [size, size, in / groups, out], drawn for rectifiers (He et al. 2015, arXiv:1502.01852),
    or normal of standard deviation `std`.
    """
    size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    free = (None,) * len(size)
    inputs = "channels_in" if groups == 1 else None
    return nnx.Conv(
        channels_in,
        channels_out,
        size,
        strides=strides,
        kernel_dilation=dilation,
        feature_group_count=groups,
        padding=padding,
        use_bias=use_bias,
        kernel_init=nnx.initializers.he_normal() if std is None else nnx.initializers.normal(std),
        kernel_metadata=named(*free, inputs, "channels_out"),
        bias_metadata=named("channels_out"),
        conv_general_dilated=_convolve,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )


def _convolve(x_BHWC: jax.Array, kernel: jax.Array, *arguments, **options) -> jax.Array:
    """`jax.lax.conv_general_dilated`, the kernel whole along its input channels.

    A kernel that is split along both its channels, with the batch split over the same devices,
    got wrong gradients from XLA's partitioner (jaxlib 0.10.2, CPU).
    """
    whole = (None,) * (kernel.ndim - 1)
    kernel = constrain(kernel, *whole, "channels_out")
    return jax.lax.conv_general_dilated(x_BHWC, kernel, *arguments, **options)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all but the last dimension (Ioffe and Szegedy 2015,
    arXiv:1502.03167); the running variance is the unbiased one, as in its algorithm 2.

    Its mean and variance are those of the global batch, however it is split over devices: under
    `jax.jit` a mean is a mean of the whole array. Running statistics are `nnx.BatchStat`.
    """

    def __call__(
        self, x: jax.Array, *, use_running_average: bool, real: jax.Array | None = None
    ) -> jax.Array:
        """[..., C] -> [..., C] in `dtype`, statistics in float32; without `use_running_average`
        those of this batch, which move the running ones by 1 - momentum. `real` (bool [...]) says
        which positions they are taken of: all where there is none."""
        x_float32 = x.astype(jnp.float32)
        if use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            mean, variance, count = _statistics(x_float32, real)
            keep = self.momentum
            unbiased = variance * (count / jnp.maximum(count - 1, 1))
            self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
            self.var[...] = keep * self.var[...] + (1 - keep) * unbiased
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...].astype(jnp.float32)
        return ((x_float32 - mean) * factor + self.bias[...]).astype(self.dtype)


def _statistics(
    x: jax.Array, real: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | int]:
    """Mean and variance [C] of the positions [..., C] that are real, and how many those are."""
    axes = tuple(range(x.ndim - 1))
    # The two-pass form: no cancellation where the mean is large.
    if real is None:
        mean = jnp.mean(x, axis=axes)
        return mean, jnp.mean(jnp.square(x - mean), axis=axes), x.size // x.shape[-1]
    weights = real[..., None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weights), 1)
    mean = jnp.sum(weights * x, axis=axes) / count
    return mean, jnp.sum(weights * jnp.square(x - mean), axis=axes) / count, count


def forget_running_statistics(module: nnx.Module) -> None:
    """Sets each batch norm in `module` to a momentum of 0: a training forward leaves the statistics
    of its batch alone in the place of the running ones."""
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.BatchNorm):
            layer.momentum = 0.0


def batch_norm(
    channels: int,
    *,
    momentum: float,
    scale: float = 1.0,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> BatchNorm:
    """`BatchNorm` of [..., channels] whose scales start at `scale`."""
    layer = BatchNorm(
        channels,
        momentum=momentum,
        scale_init=nnx.initializers.constant(scale),
        scale_metadata=named("norm"),
        bias_metadata=named("norm"),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )
    for statistic in (layer.mean, layer.var):
        statistic.set_metadata(AXES, ("norm",))
    return layer


class SqueezeExcitation(nnx.Module):
    """Channels weighted by what the whole grid says of them (Hu et al. 2018, arXiv:1709.01507,
    eq. 2 to 4): x · sigmoid(W relu(V mean(x))), in between `channels / reduction` wide."""

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        hidden = max(channels // reduction, 1)
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        common = {"use_bias": True, **numbers}
        he = (2 / channels) ** 0.5
        self.down = linear((channels,), (hidden,), ("embed", "mlp"), std=he, **common)
        self.up = linear((hidden,), (channels,), ("mlp", "embed"), **common)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        weights_BC = nnx.sigmoid(self.up(nnx.relu(self.down(global_average_pool(x_BHWC)))))
        return x_BHWC * weights_BC[:, None, None, :]


def max_pool(
    x_BHWC: jax.Array, *, size: int = 2, strides: int = 2, padding: Padding = "SAME"
) -> jax.Array:
    """The maximum of every `size` x `size` patch, `strides` apart.

    Patches of 2 that do not overlap, and the edges filled up: [B, ceil(H/2), ceil(W/2), C], equal
    ones share the gradient. That is a maximum over dimensions of their own: with the gradient of a
    window's maximum the whole step of a small network takes 1.8 times as long on a CPU.
    """
    if (size, strides, padding) == (2, 2, "SAME"):
        B, H, W, C = x_BHWC.shape
        if H % 2 or W % 2:
            edges = ((0, 0), (0, H % 2), (0, W % 2), (0, 0))
            x_BHWC = jnp.pad(x_BHWC, edges, constant_values=-jnp.inf)
        pooled_BHWC = jnp.max(x_BHWC.reshape(B, -(-H // 2), 2, -(-W // 2), 2, C), axis=(2, 4))
    else:
        pooled_BHWC = nnx.max_pool(x_BHWC, (size, size), (strides, strides), padding)
    return constrain(pooled_BHWC, "batch", None, None, "channels_out")


def average_pool(
    x_BHWC: jax.Array, *, size: int = 2, strides: int = 2, padding: Padding = "VALID"
) -> jax.Array:
    """The mean of every `size` x `size` patch, `strides` apart; zeros of the padding count."""
    pooled_BHWC = nnx.avg_pool(x_BHWC, (size, size), (strides, strides), padding)
    return constrain(pooled_BHWC, "batch", None, None, "channels_out")


def global_average_pool(x_BHWC: jax.Array) -> jax.Array:
    """The mean of each channel, taken in float32: [B, H, W, C] -> [B, C]."""
    pooled_BC = jnp.mean(x_BHWC.astype(jnp.float32), axis=(1, 2)).astype(x_BHWC.dtype)
    return constrain(pooled_BC, "batch", "width")
