"""One- and two-dimensional convolution, batch norm, squeeze-and-excitation, and pooling.

Axes: B batch, H height, W width, C channels; one-dimensional: B batch, T length, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.sharding import AXES, constrain, named

Padding = str | Sequence[tuple[int, int]]

BATCH_NORM_MOMENTUM = 0.9
"""The decay of the running statistics. It is low enough to average over only a few dozen steps,
because runs may be short."""

SQUEEZE_REDUCTION = 16
"""The ratio of channels to hidden units in squeeze-and-excitation, as in the paper."""


def convolution(
    channels_in: int,
    channels_out: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    kernel_size: int | tuple[int, ...],
    strides: int | tuple[int, ...] = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Padding = "SAME",
    std: float | None = None,
    use_bias: bool,
) -> nnx.Conv:
    """Make a convolution over images or, if `kernel_size` is (size,), over sequences.

    It maps images [B, H, W, channels_in] to [B, H', W', channels_out], and sequences
    [B, T, channels_in] to [B, T', channels_out].

    `kernel_size`: an integer means a square kernel.

    `padding`: "SAME" keeps the size (divided by the strides, rounded up); "VALID" adds nothing;
        "CAUSAL" pads only before the first position; or a pair (zeros before, zeros after) for each
        dimension.
    `groups`: each output channel reads only the input channels of its group; with as many groups as
        channels, the convolution is depthwise.

    The kernel [size, size, in / groups, out] is initialised as in He et al. 2015, arXiv:1502.01852,
    or normal with standard deviation `std` if that is given.
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
        precision=numerics.precision,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


def _convolve(x_BHWC: jax.Array, kernel: jax.Array, *arguments, **options) -> jax.Array:
    """Call `jax.lax.conv_general_dilated` with the kernel not sharded along its input channels.

    XLA's partitioner computes wrong gradients for a kernel that is sharded along both of its
    channel dimensions while the batch is sharded over the same devices (jaxlib 0.10.2, CPU).
    """
    unsharded = (None,) * (kernel.ndim - 1)
    kernel = constrain(kernel, *unsharded, "channels_out")
    return jax.lax.conv_general_dilated(x_BHWC, kernel, *arguments, **options)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all but the last dimension (Ioffe and Szegedy 2015,
    arXiv:1502.03167). The running variance is unbiased, as in algorithm 2 of the paper.

    Mean and variance are computed over the global batch, even if it is sharded: under `jax.jit` a
    mean is over the whole array. Running statistics are `nnx.BatchStat`.
    """

    scale: nnx.Param
    bias: nnx.Param

    def __call__(
        self, x: jax.Array, *, use_running_average: bool, real: jax.Array | None = None
    ) -> jax.Array:
        """Map [..., C] to [..., C] in `dtype`, with statistics in float32.

        If `use_running_average` is False, the batch's statistics are used, and the running ones are
        set to momentum · running + (1 - momentum) · batch. `real` (bool [...]) is True at the
        positions to include in the batch's statistics; None: all.
        """
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
    """Return mean and variance [C] over the real positions of x [..., C], and their number."""
    axes = tuple(range(x.ndim - 1))
    # In two passes, so that a large mean causes no cancellation.
    if real is None:
        mean = jnp.mean(x, axis=axes)
        return mean, jnp.mean(jnp.square(x - mean), axis=axes), x.size // x.shape[-1]
    weights = real[..., None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weights), 1)
    mean = jnp.sum(weights * x, axis=axes) / count
    return mean, jnp.sum(weights * jnp.square(x - mean), axis=axes) / count, count


def forget_running_statistics(module: nnx.Module) -> None:
    """Set the momentum of each batch norm in `module` to 0, so that a forward pass in training
    replaces the running statistics by those of its batch."""
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.BatchNorm):
            layer.momentum = 0.0


def batch_norm(
    channels: int, numerics: Numerics, rngs: nnx.Rngs, *, scale: float = 1.0
) -> BatchNorm:
    """Make a `BatchNorm` for arrays [..., channels], with scales that start at `scale`."""
    layer = BatchNorm(
        channels,
        momentum=BATCH_NORM_MOMENTUM,
        scale_init=nnx.initializers.constant(scale),
        scale_metadata=named("norm"),
        bias_metadata=named("norm"),
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )
    for statistic in (layer.mean, layer.var):
        statistic.set_metadata(AXES, ("norm",))
    return layer


class SqueezeExcitation(nnx.Module):
    """Scales channels by a function of their means: x · sigmoid(W relu(V mean(x))), with
    channels / 16 hidden units (Hu et al. 2018, arXiv:1709.01507, eq. 2 to 4)."""

    def __init__(self, channels: int, numerics: Numerics, rngs: nnx.Rngs):
        hidden = max(channels // SQUEEZE_REDUCTION, 1)
        he = (2 / channels) ** 0.5
        axes = ("embed", "mlp")
        self.down = linear(channels, hidden, axes, numerics, rngs, std=he, use_bias=True)
        self.up = linear(hidden, channels, axes[::-1], numerics, rngs, use_bias=True)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to [B, H, W, C]."""
        weights_BC = nnx.sigmoid(self.up(nnx.relu(self.down(global_average_pool(x_BHWC)))))
        return x_BHWC * weights_BC[:, None, None, :]


def max_pool(
    x_BHWC: jax.Array, *, size: int = 2, strides: int = 2, padding: Padding = "SAME"
) -> jax.Array:
    """Take the maximum of every `size` x `size` patch, `strides` apart.

    The default is 2 x 2 patches that do not overlap: [B, ceil(H/2), ceil(W/2), C]. This case is
    computed by a reshape and a maximum; equal maxima share the gradient. With the gradient of
    `reduce_window`, a training step of a small network takes 1.8 times as long on a CPU.
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


def global_average_pool(x_BHWC: jax.Array) -> jax.Array:
    """Return the mean of each channel, [B, C], computed in float32."""
    pooled_BC = jnp.mean(x_BHWC.astype(jnp.float32), axis=(1, 2)).astype(x_BHWC.dtype)
    return constrain(pooled_BC, "batch", "width")
