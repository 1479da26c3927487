"""How matrix products and convolutions are computed on CPU: in which dtype, and by which library.

This is the only file that changes JAX. It replaces the rules that lower `dot_general` and
convolutions, for three purposes:

- `precision.products=bfloat16`: the operands of float32 products are rounded to bfloat16, sums and
  results are float32. Layers ask for this by `Numerics.precision`. JAX passes it on to XLA, whose
  CPU backend ignores it; for convolutions all backends do (jax 0.10.2 and 0.11.2).
- `train.matrix_products`: products and convolutions by oneDNN in place of XLA, in programs for one
  CPU device.
- Convolutions in the form that is fastest on one CPU device (`parallel/convolutions.py`).

Derivatives, rematerialisation and the models are unchanged. Measurements: docs/results.md, "The
train step compared with PyTorch's".
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
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
from parallel import bfloat16, cpu, onednn
from parallel.bfloat16 import ROUNDED
from parallel.convolutions import convolution_method

LIBRARIES = ("xla", "onednn")

SMALLEST_PRODUCT = 2**15
"""Smallest number of multiplications for which oneDNN is called, or bfloat16 arrays are multiplied:
16 x 128 by 128 x 16."""

FEW_ROWS, SMALLEST_OF_ROWS = 64, 2**24
"""Limits for a product of rows and a kernel. XLA is usually as fast as oneDNN, or faster, with at
most `FEW_ROWS` rows (a step of a recurrent layer, decoding) or fewer than `SMALLEST_OF_ROWS`
multiplications (1024 x 128 by 128 x 128)."""

FEW_BFLOAT16_ROWS = 8
"""With at most so many rows, as in a step of decoding, XLA multiplies rounded float32 arrays: a
loop over steps rounds a kernel once, and bfloat16 arrays took 1.2 times as long (2 and 8 rows, AMD
EPYC with AVX512-BF16)."""

GAIN = 2.0
"""`auto` selects oneDNN if it computes a test product of bfloat16 arrays this many times as fast as
XLA, as on CPUs with AMX. Less is not worth it: its programs can't be kept in the cache of compiled
programs. In float32 the gain is never that large."""

GAIN_TURNS = 10

# JAX's own rules by platform and primitive, and its function that caches a program, kept while
# they are replaced.
_usual: dict[tuple[str, Primitive], Any] = {}
_usual_caching: list[Callable] = []
_library = "xla"  # what computes the products of programs for one CPU device


def select_products(config: Config, mesh: Mesh, manifest: Mapping[str, Any] | None = None) -> str:
    """Select the library for matrix products, for programs compiled afterwards. Return its name.

    config: `train.matrix_products` is the name of the library, or `auto`: oneDNN for products in
        bfloat16 on one CPU device, where it is right and `GAIN` times as fast; else XLA. As the
        speed is measured, two runs may differ: with `train.deterministic`, `auto` is XLA.
    manifest: that of a checkpoint of the run; `auto` takes again what it says, if that works here.

    Raises `configs.UsageError` for oneDNN if the mesh is not a single CPU device, or if a small
    test product fails or is wrong.
    """
    asked = config.train.matrix_products
    if asked == "auto" and manifest is not None:
        return reuse_library(config, mesh, manifest)
    in_bfloat16 = config.precision.products == "bfloat16"
    may_choose = _is_one_cpu(mesh) and in_bfloat16 and not config.train.deterministic
    if asked == "xla" or (asked == "auto" and not may_choose):
        return use_library("xla")
    flag = "train.matrix_products=onednn"
    if not _is_one_cpu(mesh):
        platform = mesh.devices.flat[0].platform
        raise UsageError(
            f"{flag} is made for one CPU device, and the mesh has {mesh.size} of {platform}: use "
            "xla"
        )
    try:
        onednn.check(in_bfloat16=in_bfloat16)
    except Exception as error:  # XLA may raise anything for a call that it does not know.
        if asked == "auto":
            return use_library("xla")
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{flag} does not work here ({reason}): use xla") from error
    if asked == "auto" and _gain() < GAIN:
        return use_library("xla")
    return use_library("onednn")


def reuse_library(config: Config, mesh: Mesh, manifest: Mapping[str, Any]) -> str:
    """Select the library with which a checkpoint was trained if it works here, else XLA, for
    programs compiled afterwards. Return its name.

    manifest: that of the checkpoint. Older ones name no library: XLA.
    """
    if manifest.get("history", {}).get("matrix_products") == "onednn" and _is_one_cpu(mesh):
        try:
            onednn.check(in_bfloat16=config.precision.products == "bfloat16")
        except Exception:  # XLA may raise anything for a call that it does not know.
            return use_library("xla")
        return use_library("onednn")
    return use_library("xla")


def _is_one_cpu(mesh: Mesh) -> bool:
    return (mesh.size, mesh.devices.flat[0].platform) == (1, "cpu")


def selected_library() -> str:
    """Return the name of the library for products in programs for one CPU device."""
    return _library


def use_library(name: str) -> str:
    """Compute the products of programs that are compiled later for one CPU by "xla" or "onednn".
    Programs for several devices keep XLA's, which XLA can partition. Return `name`."""
    global _library
    install_rules()
    _library = name
    if name == "onednn" and not _usual_caching:
        _usual_caching.append(compilation_cache.put_executable_and_time)
        compilation_cache.put_executable_and_time = functools.partial(
            _cache_program, _usual_caching[0]
        )
    while name == "xla" and _usual_caching:
        compilation_cache.put_executable_and_time = _usual_caching.pop()
    return name


def install_rules() -> None:
    """Replace JAX's rules for products and convolutions. Without a call of `use_library` and
    without products in bfloat16, programs stay what they were, but for the gradients of large
    convolutions' kernels."""
    ours = [("cpu", dot_general_p, _lower_dot), ("cpu", conv_general_dilated_p, _lower_convolution)]
    ours += [(gpu, conv_general_dilated_p, _lower_rounded_convolution) for gpu in ("cuda", "rocm")]
    for platform, primitive, rule in ours:
        if (platform, primitive) not in _usual:
            usual = mlir._platform_specific_lowerings[platform][primitive]
            _usual[platform, primitive] = usual
            mlir.register_lowering(
                primitive, functools.partial(rule, usual.rule), platform=platform
            )


def remove_rules() -> None:
    """Undo `install_rules` and `use_library`."""
    use_library("xla")
    for (platform, primitive), usual in _usual.items():
        mlir._platform_specific_lowerings[platform][primitive] = usual
    _usual.clear()


def _gain() -> float:
    """Return how many times as fast as XLA oneDNN computes products of bfloat16 arrays: rows
    [768, 512] by a kernel [512, 512], and the kernel's gradient."""
    rows, kernel = jnp.ones((768, 512), jnp.bfloat16), jnp.ones((512, 512), jnp.bfloat16)

    def compiled(multiply: Callable) -> Callable:
        def both(rows, kernel):
            forward = multiply(rows, kernel, dimension_numbers=(((1,), (0,)), ((), ())))
            return forward, multiply(rows, rows, dimension_numbers=(((0,), (0,)), ((), ())))

        return jax.jit(both).lower(rows, kernel).compile()

    def seconds(compute: Callable) -> float:
        began = time.perf_counter()
        jax.block_until_ready(compute(rows, kernel))
        return time.perf_counter() - began

    ways = [compiled(bfloat16.product), compiled(onednn.product)]
    # In turns: other work on this machine delays both ways, or neither.
    turns = [[seconds(way) for way in ways] for _ in range(GAIN_TURNS)]
    xla, ours = map(min, zip(*turns, strict=True))
    return xla / ours


# ---- The rules.


def _lower_dot(usual: Callable, context, lhs, rhs, *, dimension_numbers, precision, **options):
    is_rounded = precision == ROUNDED and _has_float32(context)
    multiply = _method(context, dimension_numbers, is_rounded)
    if multiply is None and not is_rounded:
        options |= {"dimension_numbers": dimension_numbers, "precision": precision}
        return usual(context, lhs, rhs, **options)

    def product(lhs, rhs):
        if is_rounded:
            lhs, rhs = bfloat16.rounded(lhs), bfloat16.rounded(rhs)
        if multiply is None:
            return lax.dot_general(lhs, rhs, dimension_numbers, preferred_element_type=jnp.float32)
        if is_rounded:
            lhs, rhs = lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16)
        return multiply(lhs, rhs, dimension_numbers=dimension_numbers)

    return mlir.lower_fun(product, multiple_results=False)(context, lhs, rhs)


def _method(context, dimension_numbers, is_rounded: bool) -> Callable | None:
    """Return the function that computes a product instead of XLA's own rule; None for that rule.

    is_rounded: whether the operands will be bfloat16.
    """
    (left, right), (result,) = context.avals_in, context.avals_out
    may_change = is_rounded or _library == "onednn"
    if not may_change or not _suits(context, left, right, result):
        return None
    (contracting, _), (batch, _) = dimension_numbers
    shared = math.prod(left.shape[d] for d in (*contracting, *batch))
    multiplications = result.size * math.prod(left.shape[d] for d in contracting)
    rows = min(left.size, right.size) // shared
    # A product with a vector is far slower by oneDNN, and not one of bfloat16 by XLA.
    if rows == 1 or multiplications < SMALLEST_PRODUCT:
        return None
    if _library == "onednn":
        smallest: float = SMALLEST_PRODUCT
        if _is_rows_by_kernel(left, right, dimension_numbers):
            smallest = math.inf if left.size <= FEW_ROWS * shared else SMALLEST_OF_ROWS
        if multiplications >= smallest:
            return onednn.product
    in_bfloat16 = is_rounded and rows > FEW_BFLOAT16_ROWS and cpu.has_bfloat16()
    return bfloat16.product if in_bfloat16 else None


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
    in_bfloat16 = options["precision"] == ROUNDED and cpu.has_bfloat16()
    method = None
    if _suits(context, left, right, result):
        by_products = in_bfloat16 or _library == "onednn"
        shapes = left.shape, right.shape, result.shape
        method = convolution_method(
            *shapes,
            options,
            by_products=by_products,
            by_onednn=_library == "onednn",
            in_bfloat16=options["precision"] == ROUNDED,
        )
    if method is None:
        return _lower_rounded_convolution(usual, context, lhs, rhs, **options)
    method = functools.partial(method, shape=result.shape, precision=options["precision"])
    return mlir.lower_fun(method, multiple_results=False)(context, lhs, rhs)


def _lower_rounded_convolution(usual: Callable, context, lhs, rhs, **options):
    """Lower a convolution by the usual rule. With the precision `ROUNDED`, float32 operands are
    rounded first."""
    if options["precision"] != ROUNDED or not _has_float32(context):
        return usual(context, lhs, rhs, **options)

    def convolve(lhs, rhs):
        default = (lax.Precision.DEFAULT, lax.Precision.DEFAULT)
        operands = bfloat16.rounded(lhs), bfloat16.rounded(rhs)
        return conv_general_dilated_p.bind(*operands, **(options | {"precision": default}))

    return mlir.lower_fun(convolve, multiple_results=False)(context, lhs, rhs)


def _has_float32(context) -> bool:
    return any(x.dtype == jnp.float32 for x in context.avals_in)


def _suits(context, *arrays) -> bool:
    """Return whether a program for one device has these arrays as float32, not empty and with known
    sizes (`jax.export` has others too)."""
    axis_context = context.module_context.axis_context
    one_device = getattr(axis_context, "num_devices", None) == 1
    known = not any(jax.export.is_symbolic_dim(size) for x in arrays for size in x.shape)
    return one_device and known and all(x.dtype == jnp.float32 and x.size for x in arrays)


def _cache_program(usual: Callable, key: str, name: str, executable: Any, *others: Any) -> None:
    """Write a compiled program to JAX's cache, unless it calls oneDNN.

    XLA's serialiser mistakes a oneDNN call for a different kind of call, and requests an absurd
    number of bytes from malloc. XLA continues when malloc refuses. But glibc has then moved the
    main thread from its own heap to one that returns memory after every step, and does not move it
    back.
    """
    programs = [module.as_serialized_hlo_module_proto() for module in executable.hlo_modules()]
    calls = (onednn.MATMUL.encode(), onednn.CONVOLUTION.encode())
    if not any(call in program for call in calls for program in programs):
        usual(key, name, executable, *others)
