"""Two-dimensional convolution and pooling.

Axes: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.sharding import AXES, constrain, named


def convolution(
    channels_in: int,
    channels_out: int,
    *,
    kernel_size: int,
    use_bias: bool,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution [B, H, W, channels_in] -> [B, H, W, channels_out], padded to keep the size.

    Kernel [size, size, in, out], drawn for rectifiers (He et al. 2015, arXiv:1502.01852).
    """
    return nnx.Conv(
        channels_in,
        channels_out,
        (kernel_size, kernel_size),
        use_bias=use_bias,
        kernel_init=nnx.initializers.he_normal(),
        kernel_metadata=named(None, None, "channels_in", "channels_out"),
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
    kernel = constrain(kernel, None, None, None, "channels_out")
    return jax.lax.conv_general_dilated(x_BHWC, kernel, *arguments, **options)


def batch_norm(
    channels: int,
    *,
    momentum: float,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.BatchNorm:
    """Batch normalisation over all but the last dimension (arXiv:1502.03167).

    Its mean and variance are those of the global batch, however it is split over devices: under
    `jax.jit` a mean is a mean of the whole array. Running statistics are `nnx.BatchStat`.
    """
    layer = nnx.BatchNorm(
        channels,
        momentum=momentum,
        use_fast_variance=False,  # the two-pass form: no cancellation where the mean is large
        scale_metadata=named("norm"),
        bias_metadata=named("norm"),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )
    for statistic in (layer.mean, layer.var):
        statistic.set_metadata(AXES, ("norm",))
    return layer


def max_pool(x_BHWC: jax.Array) -> jax.Array:
    """The maximum of every 2 x 2 patch, [B, ceil(H/2), ceil(W/2), C]; equal ones share the
    gradient.

    A maximum over dimensions of their own: with the gradient of a window's maximum the whole step
    of a small network takes 1.8 times as long on a CPU.
    """
    B, H, W, C = x_BHWC.shape
    if H % 2 or W % 2:
        edges = ((0, 0), (0, H % 2), (0, W % 2), (0, 0))
        x_BHWC = jnp.pad(x_BHWC, edges, constant_values=-jnp.inf)
    x_BH2W2C = x_BHWC.reshape(B, -(-H // 2), 2, -(-W // 2), 2, C)
    return constrain(jnp.max(x_BH2W2C, axis=(2, 4)), "batch", None, None, "channels_out")
