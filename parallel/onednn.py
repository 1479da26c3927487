"""Matrix products and convolutions on one CPU by oneDNN, which jaxlib contains but XLA does not
choose.

jaxlib for x86 has custom calls `__onednn$matmul` and `__onednn$convolution` (tried: 0.10.2 and
0.11.2). The first accepts operands in any layout, while XLA's own products first copy an operand
for every gradient of a kernel. `parallel/products.py` decides what is computed here.
"""

import functools
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from parallel import cpu

MATMUL = "__onednn$matmul"
CONVOLUTION = "__onednn$convolution"
STATUS_RETURNING = 2
"""The version of XLA's custom-call API that takes the configuration as JSON."""


def product(
    lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.DotDimensionNumbers
) -> jax.Array:
    """Compute `jax.lax.dot_general(lhs, rhs, dimension_numbers)` with oneDNN.

    Operands are both float32 or both bfloat16, and not empty. Returns float32 [*batch, *free of
    lhs, *free of rhs]. Compilation fails if XLA has no oneDNN.
    """
    contracting, (lhs_batch, rhs_batch) = dimension_numbers
    # Contract in the order of the first operand's dimensions; the second usually has the same.
    pairs = sorted(zip(*contracting, strict=True))
    lhs_contracting, rhs_contracting = zip(*pairs, strict=True) if pairs else ((), ())
    a, b = _Matrix(lhs, lhs_batch, lhs_contracting), _Matrix(rhs, rhs_batch, rhs_contracting)
    shape = tuple(lhs.shape[d] for d in lhs_batch) + a.free_shape + b.free_shape
    # The operands of a kernel's gradient are swapped, and its result is transposed afterwards. If
    # they are swapped again here, the two transpositions cancel.
    if (a.flipped and b.flipped and not lhs_batch) or (a.scattered and not b.scattered):
        start = len(lhs_batch)
        crossed = _call(b, a).reshape(*shape[:start], *b.free_shape, *a.free_shape)
        kept = len(b.free_shape) + start
        order = (*range(start), *range(kept, len(shape)), *range(start, kept))
        return lax.transpose(crossed, order)
    return _call(a, b).reshape(shape)


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    shape: Sequence[int],
    *,
    specs: lax.ConvDimensionNumbers,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Compute a convolution of one group with oneDNN.

    Operands are both float32 or both bfloat16, with 1 to 3 spatial dimensions. `shape`: the shape
    of the result, which is float32. `specs`: the `dimension_numbers` of
    `lax.conv_general_dilated`. `strides`, `padding` (not negative) and `dilation` (of rhs) have an
    entry for each spatial dimension. Compilation fails if XLA has no oneDNN.
    """
    (batch, features, *places), (out, into, *window) = specs.lhs_spec, specs.rhs_spec
    out_batch, out_features, *out_places = specs.out_spec
    configuration = {
        "dims": lhs.ndim,
        "feature_groups": 1,
        "input": {"data": _layout(batch, features, places)},
        "kernel": {
            "filter": {
                "output_feature_dim": out,
                "input_feature_dim": into,
                "spatial_dims": window,
            }
        },
        "output": {"data": _layout(out_batch, out_features, out_places)},
        "window": {
            "size": [rhs.shape[d] for d in window],
            "pad_left": [low for low, _ in padding],
            "pad_right": [high for _, high in padding],
            "strides": list(strides),
            "window_dilations": list(dilation),
        },
    }
    return jax.ffi.ffi_call(
        CONVOLUTION,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=STATUS_RETURNING,
        legacy_backend_config=json.dumps({"onednn_conv_config": configuration}),
    )(lhs, rhs)


def _layout(batch: int, features: int, places: Sequence[int]) -> dict[str, Any]:
    return {"batch_dim": batch, "feature_dim": features, "spatial_dims": list(places)}


def check(*, in_bfloat16: bool) -> None:
    """Raise ValueError if oneDNN's product of two transposed operands, or a convolution, differs
    from XLA's.

    in_bfloat16: check products of bfloat16 arrays too. Without AVX-512 they would end the process,
        so nothing is tried.
    """
    if in_bfloat16 and not cpu.has_avx512():
        raise ValueError("it multiplies in bfloat16 only on CPUs with AVX-512")
    for dtype in (jnp.float32, jnp.bfloat16)[: 1 + in_bfloat16]:
        a, b = (jnp.arange(n, n + 24, dtype=dtype).reshape(2, 3, 4) for n in (0, 7))
        numbers = (((1,), (1,)), ((2,), (2,)))
        found = jax.jit(functools.partial(product, dimension_numbers=numbers))(a, b)
        if not jnp.array_equal(found, jnp.einsum("amk,bmk->kab", *map(jnp.float32, (a, b)))):
            raise ValueError("a product came out wrong")
        c, kernel = (jnp.arange(n, dtype=dtype).reshape(1, -1, 2) for n in (12, 4))
        convolve = functools.partial(
            convolution,
            shape=(1, 3, 1),
            specs=lax.ConvDimensionNumbers((0, 2, 1), (0, 2, 1), (0, 2, 1)),
            strides=(2,),
            padding=((0, 1),),
            dilation=(1,),
        )
        found = jax.jit(convolve)(c, kernel)
        if found.tolist() != [[[14.0], [38.0], [62.0]]]:
            raise ValueError("a convolution came out wrong")


class _Matrix:
    """Holds an operand as [*batch, free, contracting], or [..., contracting, free] if `flipped`.

    `order`: the dimensions from the slowest to the fastest in memory.
    `scattered`: whether the free dimension is the fastest, but the batch is not the slowest, as in
        [B, T, heads, head_dim]. If the product has the same order in memory, it needs no copy
        afterwards.

    The operand is not copied if its free dimensions are adjacent in memory, and so are its
    contracting dimensions.
    """

    def __init__(self, x: jax.Array, batch: Sequence[int], contracting: Sequence[int]):
        free = [d for d in range(x.ndim) if d not in batch and d not in contracting]
        self.free_shape = tuple(x.shape[d] for d in free)
        kinds = {d: ("batch", n) for n, d in enumerate(batch)}
        wanted = [*kinds.values(), ("free", 0), ("contracting", 0)]
        kinds |= dict.fromkeys(free, wanted[-2]) | dict.fromkeys(contracting, wanted[-1])
        # The position of a dimension of size 1 does not matter.
        long = [d for d in range(x.ndim) if x.shape[d] > 1 or d in batch]
        runs = [(kind, tuple(group)) for kind, group in itertools.groupby(long, lambda d: kinds[d])]
        in_order = [d for d in contracting if d in long] == sorted(set(contracting) & set(long))
        parted = len({kind for kind, _ in runs}) < len(runs)
        shape = x.shape
        if (
            not in_order or parted or runs[-1][0][0] == "batch"
        ):  # products with the batch last are slow
            runs = [(("batch", n), (d,)) for n, d in enumerate(batch)]
            runs += [(("free", 0), tuple(free)), (("contracting", 0), tuple(contracting))]
            x = lax.transpose(x, tuple(d for _, group in runs for d in group))
        sizes = [math.prod(shape[d] for d in group) for _, group in runs]
        stored = [kind for kind, _ in runs]
        missing = [kind for kind in wanted if kind not in stored]
        x, stored = x.reshape(*sizes, *(1 for _ in missing)), stored + missing
        self.flipped = stored == [*wanted[:-2], wanted[-1], wanted[-2]]
        if self.flipped:
            wanted = stored
        self.order = tuple(wanted.index(kind) for kind in stored)
        self.x = lax.transpose(x, tuple(stored.index(kind) for kind in wanted))
        plain = tuple(range(x.ndim))
        self.scattered = self.order != plain and self.order[-1] == len(batch)


def _call(a: _Matrix, b: _Matrix) -> jax.Array:
    """Multiply two operands with oneDNN. Returns [*batch, free of a, free of b]."""
    *batch, rows = a.x.shape[:-1] if not a.flipped else (*a.x.shape[:-2], a.x.shape[-1])
    columns = b.x.shape[-1 if b.flipped else -2]
    order = tuple(range(a.x.ndim))
    if b.scattered:
        last, before = order[-1], order[-2]
        order = tuple({last: before, before: last}.get(d, d) for d in b.order)
    configuration = {"transpose_a": a.flipped, "transpose_b": not b.flipped}
    return jax.ffi.ffi_call(
        MATMUL,
        jax.ShapeDtypeStruct((*batch, rows, columns), jnp.float32),
        custom_call_api_version=STATUS_RETURNING,
        legacy_backend_config=json.dumps({"onednn_matmul_config": configuration}),
        input_layouts=(a.order, b.order),
        output_layouts=order,
    )(a.x, b.x)
