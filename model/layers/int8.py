"""Kernels of 8-bit integers, for inference.

A kernel has a scale for each output channel: weight = value · scale. On a CPU the inputs of a
product are rounded to 8 bits too, with a scale for each position (dynamic, symmetric), so that the
product is one of integers with sums in int32; its result does not depend on the order of the sums,
nor on other rows. Elsewhere only the weights are rounded, and the product has the inputs' dtype.

Axes: R rows, K inputs, N output channels.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax.nnx.nn import dtypes
from jax.typing import DTypeLike

from model.layers.numerics import Precision

LARGEST = 127
"""The largest value of a kernel or input; -128 is not used (symmetric quantisation)."""

INPUTS_PER_PASS = 8
"""Inputs of one row that are multiplied at once, see `_one_row`; more are not vectorised by LLVM
(four times as slow with 16, jaxlib 0.10.2)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8Kernel:
    """A kernel of integers, which takes the place of a parameter's float array.

    values: int8 [*stacked, *inputs, *outputs].
    scale: float32 [*stacked, *outputs].
    """

    values: jax.Array
    scale: jax.Array

    @classmethod
    def of(cls, kernel: jax.Array, inputs: int, *, stacked: int = 0) -> "Int8Kernel":
        """Round a kernel. `inputs`: the number of its input dimensions, which follow `stacked`
        dimensions of scanned layers. A channel that is not finite has a scale that is not."""
        dimensions = tuple(range(stacked, stacked + inputs))
        values, scale = quantize(kernel, dimensions)
        return cls(values, scale.squeeze(dimensions))

    def __getitem__(self, index: Any) -> "Int8Kernel":
        """Return this kernel for `kernel[...]`, as layers read their parameters."""
        if index is not ...:
            raise TypeError("only [...] reads a kernel of 8-bit integers")
        return self


Kernel = jax.Array | Int8Kernel


def quantize(x: jax.Array, dimensions: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return int8 values and the float32 scale of size 1 along `dimensions`, with x near
    values · scale. Half a step of the scale is the largest error."""
    x_float32 = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x_float32), axis=dimensions, keepdims=True)
    scale = jnp.where(largest == 0, 1, largest / LARGEST)
    return jnp.round(x_float32 / scale).astype(jnp.int8), scale


def multiply(
    x: jax.Array, kernel: Kernel, dtype: DTypeLike, precision: Precision = None
) -> jax.Array:
    """Multiply x [..., *inputs] by a kernel [*inputs, *outputs], without scanned layers. Computes
    in `dtype` and returns `dtype` [..., *outputs].

    A float kernel has one input dimension. `precision`: as in `Numerics`, for a float kernel.
    """
    if isinstance(kernel, Int8Kernel):
        return int8_product(x, kernel).astype(dtype)
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel.astype(dtype), dimensions, precision=precision)


def int8_product(x: jax.Array, kernel: Int8Kernel) -> jax.Array:
    """Multiply x [..., *inputs] by a kernel [*inputs, *outputs]: float32 [..., *outputs]."""
    y = jax.lax.platform_dependent(
        x, kernel.values, kernel.scale, cpu=integer_product, default=weights_only_product
    )
    return cast(jax.Array, y) * kernel.scale


def integer_product(x: jax.Array, values: jax.Array, scale: jax.Array) -> jax.Array:
    """Round x and multiply it by the values of a kernel, with sums in int32. `scale`: the kernel's,
    not applied. Returns float32 [..., *outputs]."""
    inputs = values.ndim - scale.ndim
    last = tuple(range(x.ndim - inputs, x.ndim))
    x_int8, x_scale = quantize(x, last)
    x_int8, values = _tied(x_int8, values)
    rows, outputs = x.shape[: x.ndim - inputs], scale.shape
    size = math.prod(values.shape[:inputs])
    if math.prod(rows) != 1:
        sums = _dot(x_int8, values, inputs, jnp.int32)
    elif size % INPUTS_PER_PASS == 0:
        sums_N = _one_row(x_int8.reshape(size), values.reshape(size, -1))
        sums = sums_N.reshape(*rows, *outputs)
    else:  # XLA is ten times as slow at one row as at two.
        x_2K = jnp.broadcast_to(x_int8.reshape(1, size), (2, size))
        sums_2N = _dot(x_2K, values.reshape(size, -1), 1, jnp.int32)
        sums = sums_2N[0].reshape(*rows, *outputs)
    scale_of_rows = x_scale.reshape(*rows, *(1 for _ in outputs))
    return sums.astype(jnp.float32) * scale_of_rows


def weights_only_product(x: jax.Array, values: jax.Array, scale: jax.Array) -> jax.Array:
    """Multiply x by the values of a kernel, converted to the dtype of x. `scale`: the kernel's, not
    applied. Returns float32 [..., *outputs]."""
    x, values = _tied(x, values)
    return _dot(x, values.astype(x.dtype), values.ndim - scale.ndim, jnp.float32)


def _tied(x: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return both, the values available only once x is. In a loop that computes a new x in each
    step, XLA would otherwise convert all values to a larger dtype before the loop."""
    return jax.lax.optimization_barrier((x, values))


def _dot(x: jax.Array, values: jax.Array, inputs: int, dtype: DTypeLike) -> jax.Array:
    last, first = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, values, ((last, first), ((), ())), preferred_element_type=dtype)


def _one_row(x_K: jax.Array, values_KN: jax.Array) -> jax.Array:
    """Multiply an int8 vector [K] by an int8 matrix [K, N]. Returns int32 [N].

    A pass reads eight rows of the matrix side by side, and LLVM vectorises it over the channels. It
    takes half the time of XLA's product of two rows, which first packs the matrix.
    """
    passes = x_K.size // INPUTS_PER_PASS
    x_JP = x_K.reshape(INPUTS_PER_PASS, passes).astype(jnp.int32)
    values_JPN = values_KN.reshape(INPUTS_PER_PASS, passes, -1)
    sums_PN = sum(
        x_P[:, None] * values_PN.astype(jnp.int32)
        for x_P, values_PN in zip(x_JP, values_JPN, strict=True)
    )
    return jnp.sum(sums_PN, axis=0)


def promote_dtype(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Convert inputs, kernel and bias of an `nnx.LinearGeneral` to `dtype`; integers stay as they
    are."""
    inputs, kernel, bias = arrays
    if not isinstance(kernel, Int8Kernel):
        return dtypes.promote_dtype(arrays, dtype=dtype, inexact=inexact)
    inputs, bias = dtypes.promote_dtype((inputs, bias), dtype=dtype, inexact=inexact)
    return inputs, kernel, bias


def dot_general(
    x: jax.Array,
    kernel: Kernel,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    *,
    preferred_element_type: DTypeLike | None = None,
    **options: Any,
) -> jax.Array:
    """Compute the product of an `nnx.LinearGeneral` whose inputs are the last dimensions of x."""
    if isinstance(kernel, Int8Kernel):
        return int8_product(x, kernel).astype(preferred_element_type or x.dtype)
    options["preferred_element_type"] = preferred_element_type
    return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
