"""Converts the weights of a restored model to another dtype (`--weights_dtype`).

- "int8": the kernels of linear layers and recurrences, and token tables, become integers with a
  scale for each output channel (`model.layers.int8`). Convolutions, norms, biases, tables of
  positions and other vectors keep their dtype.
- "bfloat16" and "float32": all floating-point parameters are cast.

The dtype of computation stays that of the configuration. LoRA pairs are merged into their matrices
first.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from configs.errors import UsageError
from configs.schema.precision import WEIGHTS_DTYPES
from model.layers.embedding import TokenEmbedding
from model.layers.int8 import Int8Kernel, dot_general, int8_product
from model.layers.recurrence import Recurrence
from model.rnn_encoder_decoder import AttentionalRecurrence
from training.model_def import compute_dtype
from training.restore import Restored

SLOWER = 1.1
"""A dtype counts as slower if a product takes more than this many times as long. Less may be
chance."""

_TIMED_RUNS = 7


@dataclass(frozen=True)
class Matrix:
    """The order of a parameter's dimensions.

    inputs: the number of input dimensions, which come after the `stacked` dimensions of scanned
        layers.
    transposed: whether the outputs come first, as in a token table, which is the head's transposed
        kernel.
    """

    inputs: int = 1
    stacked: int = 0
    transposed: bool = False

    def quantized(self, kernel: jax.Array) -> Int8Kernel:
        """Return the kernel as integers, with the same sharding."""
        return _quantized(kernel, self)


def with_weights_dtype(restored: Restored, dtype: str | None) -> Restored:
    """Return a restored model with its weights converted to a dtype of `WEIGHTS_DTYPES`; None
    changes nothing. `restored` stays usable. Raises `UsageError` for another dtype."""
    if dtype is None:
        return restored
    if dtype not in WEIGHTS_DTYPES:
        raise UsageError(f"weights_dtype={dtype}: choose {', '.join(WEIGHTS_DTYPES)}")
    graph, params = restored.model_def.graph.merged(restored.params)
    model_def = replace(
        restored.model_def, graph=graph, abstract_params=restored.model_def.own_params
    )
    if dtype == "int8":
        matrices = find_matrices(graph.bind(params, restored.statistics))
        params = jax.tree.map_with_path(
            lambda path, leaf: (
                matrices[n].quantized(leaf) if (n := _name(path)) in matrices else leaf
            ),
            params,
        )
    else:
        params = jax.tree.map(partial(_cast, dtype=dtype), params)
    return replace(restored, model_def=model_def, params=params)


def find_matrices(module: nnx.Module) -> dict[str, Matrix]:
    """Return the parameters of a module that may be integers, by dotted name."""
    matrices: dict[str, Matrix] = {}
    for path, layer in nnx.iter_modules(module):
        found: dict[str, Matrix] = {}
        if isinstance(layer, nnx.LinearGeneral):
            inputs, outputs = len(layer.in_features), len(layer.out_features)
            found["kernel"] = Matrix(inputs, layer.kernel.ndim - inputs - outputs)
        elif isinstance(layer, TokenEmbedding):
            found["tokens.embedding"] = Matrix(transposed=True)
        elif isinstance(layer, Recurrence):
            stacked = layer.input_kernel.ndim - 3
            found |= dict.fromkeys(("input_kernel", "recurrent_kernel"), Matrix(1, stacked))
        elif isinstance(layer, AttentionalRecurrence) and layer.context_kernel is not None:
            found["context_kernel"] = Matrix()
        matrices |= {".".join(map(str, (*path, name))): m for name, m in found.items()}
    return matrices


def slowdown_message(restored: Restored, dtype: str | None, *, rows: int) -> str | None:
    """Return a message for the user if products with weights of `dtype` are slower than with the
    restored ones; else None. Arguments are as in `slowdown`."""
    ratio = None if dtype is None else slowdown(restored, dtype, rows=rows)
    if ratio is None:
        return None
    return (
        f"weights_dtype={dtype} saves memory, but is slower here: a product of {rows} "
        f"row{'s'[: rows > 1]} with the largest matrix takes {ratio:.1f} times as long"
    )


def slowdown(restored: Restored, dtype: str, *, rows: int) -> float | None:
    """Time a product of `rows` vectors with the largest matrix of a model. Return how many times as
    long it takes with weights of `dtype` as with the restored ones; None if it is not slower, or if
    there is no matrix.

    Takes about half a second. In a run of several processes, all must call this.
    """
    graph, params = restored.model_def.graph.merged(restored.params)
    matrices = find_matrices(graph.bind(params, restored.statistics))
    leaves = [(_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)]
    kernels = [(leaf, matrices[name]) for name, leaf in leaves if name in matrices]
    if not kernels:
        return None
    kernel, matrix = max(kernels, key=lambda pair: pair[0].size)
    if kernel.dtype == dtype:
        return None
    changed = matrix.quantized(kernel) if dtype == "int8" else kernel.astype(dtype)
    computed = compute_dtype(restored.model_def.config, restored.model_def.mesh)
    calls = [_product(operand, matrix, computed, rows) for operand in (kernel, changed)]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(_TIMED_RUNS):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    ratio = min(times[1]) / min(times[0])
    return ratio if ratio > SLOWER else None


def _product(
    kernel: jax.Array | Int8Kernel, matrix: Matrix, dtype: Any, rows: int
) -> Callable[[], jax.Array]:
    """Return a compiled function that multiplies `rows` vectors of ones by a kernel. Of scanned
    layers, the first one's kernel is used."""

    def multiplied(x: jax.Array, kernel: Any) -> jax.Array:
        if isinstance(kernel, Int8Kernel):
            return int8_product(x, kernel)
        kernel = kernel.T if matrix.transposed else kernel
        return dot_general(x, kernel.astype(dtype), (dimensions, ((), ())))

    dimensions = tuple(range(1, matrix.inputs + 1)), tuple(range(matrix.inputs))
    kernel = jax.tree.map(lambda leaf: leaf[(0,) * matrix.stacked], kernel)
    shape = kernel.values.shape if isinstance(kernel, Int8Kernel) else kernel.shape
    turned = matrix.transposed and not isinstance(kernel, Int8Kernel)
    x = jnp.ones((rows, *(shape[::-1] if turned else shape)[: matrix.inputs]), dtype)
    compiled = jax.jit(multiplied)
    jax.block_until_ready(compiled(x, kernel))
    return lambda: compiled(x, kernel)


@partial(jax.jit, static_argnums=1)
def _quantized(kernel: jax.Array, matrix: Matrix) -> Int8Kernel:
    kernel = kernel.T if matrix.transposed else kernel
    return Int8Kernel.of(kernel, matrix.inputs, stacked=matrix.stacked)


def _name(path: Any) -> str:
    """Return the dotted name of a leaf of nested dictionaries."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _cast(leaf: jax.Array, *, dtype: str) -> jax.Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
