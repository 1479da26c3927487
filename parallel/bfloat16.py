"""Products of bfloat16 arrays by XLA on one CPU, in the form that it computes fast.

XLA's CPU backend multiplies [..., M, K] by [..., K, N] or [..., N, K] with the CPU's instructions
for bfloat16, if it has any (`cpu.has_bfloat16`; else float32 arrays are faster). Of other forms,
such as the gradient of a kernel, it converts the operands to float32, or fails when it runs
(jaxlib 0.10.2). Here operands are transposed first, and barriers keep XLA from moving the
transposition into the product.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

ROUNDED = lax.DotAlgorithmPreset.BF16_BF16_F32
"""The precision of products whose operands are rounded to bfloat16."""


def rounded(x: jax.Array) -> jax.Array:
    """Round a float32 array to bfloat16's precision. Unlike a conversion to bfloat16 and back, XLA
    never leaves this out. Returns float32."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def product(
    lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.DotDimensionNumbers
) -> jax.Array:
    """Compute `jax.lax.dot_general(lhs, rhs, dimension_numbers)` of bfloat16 arrays.

    Returns float32 [*batch, *free of lhs, *free of rhs].
    """
    contracting, batch = dimension_numbers
    pairs = sorted(zip(*contracting, strict=True))
    a = _Operand(lhs, batch[0], [d for d, _ in pairs])
    b = _Operand(rhs, batch[1], [d for _, d in pairs])
    # JAX transposes the gradient of a kernel afterwards. If the operands are swapped, and the
    # result is transposed here, the two transpositions cancel.
    swap = not batch[0] and a.ends_free and b.ends_free
    if swap:
        a, b = b, a
    count = len(batch[0])
    batches, last = tuple(range(count)), count + 1
    left = a.array(a.free, a.contracting)
    if b.ends_free:
        right, contracted = b.array(b.contracting, b.free), count
    else:
        right, contracted = b.array(b.free, b.contracting), last
    dimensions = (((last,), (contracted,)), (batches, batches))
    y = lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)
    if not batch[0]:
        y = lax.optimization_barrier(y)
    y = y.reshape(a.sizes(a.batch) + a.sizes(a.free) + b.sizes(b.free))
    if not swap:
        return y
    first = len(a.free)
    return lax.transpose(y, (*range(first, y.ndim), *range(first)))


class _Operand:
    """An operand with the positions of its batch, free and contracting dimensions."""

    def __init__(self, x: jax.Array, batch: Sequence[int], contracting: Sequence[int]):
        self.x, self.batch, self.contracting = x, tuple(batch), tuple(contracting)
        self.free = tuple(d for d in range(x.ndim) if d not in {*batch, *contracting})

    @property
    def ends_free(self) -> bool:
        """Return whether the last dimension is free."""
        return bool(self.free) and self.free[-1] == self.x.ndim - 1

    def sizes(self, dimensions: Sequence[int]) -> list[int]:
        """Return the sizes of these dimensions."""
        return [self.x.shape[d] for d in dimensions]

    def array(self, *groups: Sequence[int]) -> jax.Array:
        """Return the array as [*batch, first group, second group], each group one dimension."""
        order = (*self.batch, *(d for group in groups for d in group))
        x = self.x
        if order != tuple(range(x.ndim)):
            x = lax.optimization_barrier(lax.transpose(x, order))
        return x.reshape(*self.sizes(self.batch), *(math.prod(self.sizes(g)) for g in groups))
