"""Computes matrix products on one CPU with oneDNN, which jaxlib contains but XLA does not choose.

jaxlib for x86 has a custom call `__onednn$matmul` (tried: 0.10.2 and 0.11.2). The call accepts
operands in any layout, while XLA's own products first copy an operand for every gradient of a
kernel. This file replaces JAX's rules that lower `dot_general` and convolutions on CPU. The new
rules call oneDNN if that is faster. Derivatives, rematerialisation and the models are unchanged.
Measurements: docs/results.md, "The train step compared with PyTorch's".
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import compilation_cache
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.lax import conv_general_dilated_p, dot_general_p
from jax.sharding import Mesh

from configs.errors import UsageError
from configs.schema.config import Config

MATMUL = "__onednn$matmul"
STATUS_RETURNING = 2
"""The version of XLA's custom-call API that takes the configuration as JSON."""

SMALLEST_PRODUCT = 2**15
"""Smallest number of multiplications for which oneDNN is called: 16 x 128 by 128 x 16."""

FEW_ROWS, SMALLEST_OF_ROWS = 64, 2**24
"""Limits for a product of rows and a kernel. XLA is usually as fast as oneDNN, or faster, with at
most `FEW_ROWS` rows (a step of a recurrent layer, decoding) or fewer than `SMALLEST_OF_ROWS`
multiplications (1024 x 128 by 128 x 128)."""

MAX_WINDOW = 64
"""Largest window (8 x 8) for which products compute a convolution or its kernel gradient."""

MAX_PATCH_CHANNELS, MAX_PATCH_BYTES = 64, 2**25
"""Limits for a convolution by patches. With more input channels, XLA's convolution is faster. The
patches of a layer occupy memory from its forward pass to its backward pass."""

# JAX's own lowering rules and its function that caches a program, kept while they are replaced.
_usual: dict[Primitive, Any] = {}
_usual_caching: list[Callable] = []


def select_matrix_products(config: Config, mesh: Mesh) -> None:
    """Select XLA or oneDNN for matrix products, as the setting `train.matrix_products` says.

    Applies to programs compiled afterwards. Raises `configs.UsageError` for oneDNN if the mesh is
    not a single CPU device, or if a small test product fails or is wrong.
    """
    if config.train.matrix_products == "xla":
        remove_onednn_lowerings()
        return
    asked = "train.matrix_products=onednn"
    platform = mesh.devices.flat[0].platform
    if (mesh.size, platform) != (1, "cpu"):
        raise UsageError(
            f"{asked} is made for one CPU device, and the mesh has {mesh.size} of {platform}: "
            "use xla"
        )
    try:
        install_onednn_lowerings()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{asked} does not work here ({reason}): use xla") from error


def install_onednn_lowerings() -> None:
    """Use oneDNN for float32 matrix products in all programs that are compiled later for one CPU.

    Programs for several devices keep XLA's products, which XLA can partition. A small product is
    tried first. If it fails, the error of JAX or XLA propagates; if its result is wrong, raises
    ValueError. In both cases nothing is installed.
    """
    if _usual:
        return
    _check()
    rules = mlir._platform_specific_lowerings["cpu"]
    ours = {dot_general_p: _lower_dot, conv_general_dilated_p: _lower_convolution}
    _usual.update({primitive: rules[primitive] for primitive in ours})
    for primitive, rule in ours.items():
        with_usual = functools.partial(rule, _usual[primitive].rule)
        mlir.register_lowering(primitive, with_usual, platform="cpu")
    _usual_caching.append(compilation_cache.put_executable_and_time)
    compilation_cache.put_executable_and_time = functools.partial(_cache_program, _usual_caching[0])


def remove_onednn_lowerings() -> None:
    """Undo `install_onednn_lowerings`."""
    mlir._platform_specific_lowerings["cpu"].update(_usual)
    _usual.clear()
    while _usual_caching:
        compilation_cache.put_executable_and_time = _usual_caching.pop()


def product(
    lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.DotDimensionNumbers
) -> jax.Array:
    """Compute `jax.lax.dot_general(lhs, rhs, dimension_numbers)` with oneDNN.

    Operands are float32 and not empty. Returns float32 [*batch, *free of lhs, *free of rhs].
    Compilation fails if XLA has no oneDNN.
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
        jax.ShapeDtypeStruct((*batch, rows, columns), a.x.dtype),
        custom_call_api_version=STATUS_RETURNING,
        legacy_backend_config=json.dumps({"onednn_matmul_config": configuration}),
        input_layouts=(a.order, b.order),
        output_layouts=order,
    )(a.x, b.x)


@dataclass(frozen=True)
class Convolution:
    """Computes a convolution of channels-last arrays by matrix products.

    For each element of the window, lhs is sliced at all output positions. These slices are the left
    operands of the products.

    `specs`: the `dimension_numbers` of `lax.conv_general_dilated`. `strides`, `padding` and
    `dilation` (of rhs) have an entry for each spatial dimension.
    """

    specs: lax.ConvDimensionNumbers
    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]

    def forward(self, lhs: jax.Array, rhs: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Compute the convolution as one product of patches and kernel.

        `shape`: the shape of the result.
        """
        out_features, in_features, *window = self.specs.rhs_spec
        positions = [shape[d] for d in self.specs.out_spec[2:]]
        sizes = [rhs.shape[d] for d in window]
        rows = self._rows(lhs, sizes, self.dilation, positions, self.strides)
        patches = lax.concatenate(rows, self.specs.lhs_spec[1])
        kernel = lax.transpose(rhs, (*window, in_features, out_features))
        kernel = kernel.reshape(-1, rhs.shape[out_features])
        return lax.dot_general(patches, kernel, (((patches.ndim - 1,), (0,)), ((), ())))

    def kernel_gradient(self, lhs: jax.Array, rhs: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Compute a convolution that has few output positions and a large window.

        The gradient of a kernel is such a convolution. It is computed as one product with the
        patches of the forward pass or, if they would be too large, as one product for each output
        position.

        `shape`: the shape of the result.
        """
        channels, features, *spatial = self.specs.lhs_spec
        _, in_features, *window = self.specs.rhs_spec
        sizes = [shape[d] for d in self.specs.out_spec]
        positions = [rhs.shape[d] for d in window]
        rows = self._rows(lhs, sizes[2:], self.strides, positions, self.dilation)
        if suits_patches(lhs.shape[channels], sizes[1], len(rows) * rows[0].size):
            rows = [lax.concatenate(rows, channels)]
        contracting = ((features, *spatial), (in_features, *window))
        products = [lax.dot_general(one, rhs, (contracting, ((), ()))) for one in rows]
        found = jnp.concatenate(products).reshape(*sizes[2:], *sizes[:2])
        # [*places, channels, out features] -> [channels, out features, *places] -> out_spec
        order = [len(sizes) - 2, len(sizes) - 1, *range(len(sizes) - 2)]
        return lax.transpose(
            found, [order[self.specs.out_spec.index(d)] for d in range(len(order))]
        )

    def _rows(self, lhs, places, between_places, positions, between_positions) -> list[jax.Array]:
        pads = [(0, 0, 0)] * lhs.ndim
        for d, (low, high) in zip(self.specs.lhs_spec[2:], self.padding, strict=True):
            pads[d] = (low, high, 0)
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), pads)
        rows = []
        for place in itertools.product(*map(range, places)):
            start, step, limit = [0] * lhs.ndim, [1] * lhs.ndim, list(lhs.shape)
            for n, d in enumerate(self.specs.lhs_spec[2:]):
                start[d], step[d] = place[n] * between_places[n], between_positions[n]
                limit[d] = start[d] + (positions[n] - 1) * between_positions[n] + 1
            rows.append(lax.slice(lhs, start, limit, step))
        return rows


def suits_patches(channels: int, out_features: int, size: int) -> bool:
    """Return whether a convolution is faster as a product of patches.

    `channels`, `out_features`: the numbers of input and output channels.
    `size`: the number of elements of all patches.
    """
    return channels <= min(out_features, MAX_PATCH_CHANNELS) and 4 * size <= MAX_PATCH_BYTES


def _lower_dot(usual: Callable, context, lhs, rhs, *, dimension_numbers, **options):
    (left, right), (result,) = context.avals_in, context.avals_out
    (contracting, _), (batch, _) = dimension_numbers
    shared = math.prod(left.shape[d] for d in (*contracting, *batch))
    multiplications = result.size * math.prod(left.shape[d] for d in contracting)
    smallest: float = SMALLEST_PRODUCT
    if _is_rows_by_kernel(left, right, dimension_numbers):
        smallest = math.inf if left.size <= FEW_ROWS * shared else SMALLEST_OF_ROWS
    # oneDNN is far slower than XLA at products with a vector.
    vector = min(left.size, right.size) == shared
    if vector or multiplications < smallest or not _suits(context, left, right, result):
        return usual(context, lhs, rhs, dimension_numbers=dimension_numbers, **options)
    multiply = functools.partial(product, dimension_numbers=dimension_numbers)
    return mlir.lower_fun(multiply, multiple_results=False)(context, lhs, rhs)


def _is_rows_by_kernel(left, right, dimension_numbers: lax.DotDimensionNumbers) -> bool:
    """Return whether XLA multiplies `left` by `right` without copying an operand.

    This holds for [*rows, *shared] by [*shared, *columns], and [*rows, shared] by
    [*columns, shared].
    """
    contracting, (batch, _) = dimension_numbers
    pairs = sorted(zip(*contracting, strict=True))
    in_rows = [(left.ndim - len(pairs) + n, n) for n in range(len(pairs))]
    return not batch and pairs in (in_rows, [(left.ndim - 1, right.ndim - 1)])


def _lower_convolution(usual: Callable, context, lhs, rhs, **options):
    (left, right), (result,) = context.avals_in, context.avals_out
    specs = options["dimension_numbers"]
    places = math.prod(result.shape[d] for d in specs.out_spec[2:])
    window = math.prod(right.shape[d] for d in specs.rhs_spec[2:])
    channels, out_features = left.shape[specs.lhs_spec[1]], right.shape[specs.rhs_spec[0]]
    size = left.shape[specs.lhs_spec[0]] * places * window * channels
    strided = any(factor > 1 for factor in options["lhs_dilation"])
    grouped = options["feature_group_count"] * options["batch_group_count"] > 1
    names = {"strides": "window_strides", "padding": "padding", "dilation": "rhs_dilation"}
    ours = Convolution(specs, **{name: options[theirs] for name, theirs in names.items()})
    last = left.ndim - 1
    if not _suits(context, left, right, result) or strided or grouped:
        method = None
    elif places <= min(MAX_WINDOW, window):
        method = ours.kernel_gradient
    elif (
        window <= MAX_WINDOW
        and specs.lhs_spec == specs.out_spec == (0, last, *range(1, last))
        and suits_patches(channels, out_features, size)
    ):
        method = ours.forward
    else:
        method = None
    if method is None:
        return usual(context, lhs, rhs, **options)
    method = functools.partial(method, shape=result.shape)
    return mlir.lower_fun(method, multiple_results=False)(context, lhs, rhs)


def _cache_program(usual: Callable, key: str, name: str, executable: Any, *others: Any) -> None:
    """Write a compiled program to JAX's cache, unless it calls oneDNN.

    XLA's serialiser mistakes a oneDNN call for a different kind of call, and requests an absurd
    number of bytes from malloc. XLA continues when malloc refuses. But glibc has then moved the
    main thread from its own heap to one that returns memory after every step, and does not move it
    back.
    """
    mark = MATMUL.encode()
    modules = executable.hlo_modules()
    if not any(mark in module.as_serialized_hlo_module_proto() for module in modules):
        usual(key, name, executable, *others)


def _suits(context, *arrays) -> bool:
    axis_context = context.module_context.axis_context
    one_device = getattr(axis_context, "num_devices", None) == 1
    return one_device and all(x.dtype == jnp.float32 and x.size for x in arrays)


def _check() -> None:
    """Raise ValueError if oneDNN's product of two transposed operands differs from XLA's."""
    a, b = (jnp.arange(n, n + 24, dtype=jnp.float32).reshape(2, 3, 4) for n in (0, 7))
    numbers = (((1,), (1,)), ((2,), (2,)))
    found = jax.jit(functools.partial(product, dimension_numbers=numbers))(a, b)
    if not jnp.array_equal(found, jnp.einsum("amk,bmk->kab", a, b)):
        raise ValueError("a product came out wrong")
