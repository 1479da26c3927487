"""Lowers the functions of a model to StableHLO: programs of `jax.export`, and a static module."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax import export

from configs.schema.blocks import Stack
from interop.formats.native import PARAMS, STATISTICS
from interop.formats.source import Source
from interop.programs.functions import ArraySpec, Function, Results, Specs
from training.model_def import ModelDef, build_model_def
from training.trees import Tree, flat, nested

Weights = dict[str, Any]
"""The arrays of a model by their names in the safetensors file."""


@dataclass(frozen=True)
class Program:
    """A lowered function.

    sizes: the sizes of its dimensions that are not symbolic, of those that are in others.
    """

    function: Function
    exported: export.Exported
    sizes: Mapping[str, int]

    @property
    def file(self) -> str:
        """Return the name of its file: `NAME.stablehlo`, or `NAME_LENGTH.stablehlo`."""
        length = "".join(f"_{size}" for size in list(self.sizes.values())[:1])
        return f"{self.function.name}{length}.stablehlo"


@dataclass(frozen=True)
class StaticProgram:
    """A function lowered for fixed sizes.

    text: its StableHLO module. arguments: those of `@main`, in order: the weights, sorted by name,
    then the inputs. results: those of `@main`, in order. Each with its abstract array.
    """

    text: str
    arguments: Sequence[tuple[str, jax.core.ShapedArray]]
    results: Sequence[tuple[str, jax.core.ShapedArray]]


def portable_model_def(source: Source) -> ModelDef:
    """Return the definition of a model that can be lowered for every platform.

    Attention is XLA's. LoRA pairs are merged. The compute dtype "auto" is float32.
    """
    config = source.config
    train = config.train.model_copy(
        update={"lora": config.train.lora.model_copy(update={"rank": None})}
    )
    precision = config.precision
    if precision.compute_dtype == "auto":
        precision = precision.model_copy(update={"compute_dtype": "float32"})
    model = config.model
    attention = "xla" if isinstance(model, Stack) and model.has_self_attention else None
    return build_model_def(
        config.model_copy(update={"train": train, "precision": precision}),
        source.data_spec,
        source.restored.model_def.mesh,
        attention=attention,
    )


def abstract_weights(source: Source) -> Weights:
    """Return the shapes and dtypes of the arrays that format `safetensors` writes."""
    params = {
        PARAMS + name: jax.ShapeDtypeStruct(leaf.shape, source.dtype or leaf.dtype)
        for name, leaf in flat(source.merged.params).items()
    }
    statistics = {
        STATISTICS + name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in flat(source.merged.statistics).items()
    }
    return params | statistics


def lower(
    function: Function, model_def: ModelDef, weights: Weights, platforms: Sequence[str]
) -> tuple[list[Program], str | None]:
    """Lower a function with a symbolic batch size.

    Returns one program with symbolic lengths. If the model does not allow them, returns a program
    for each bucket, and the reason in a few words.
    """
    try:
        return [_lowered(function, model_def, weights, platforms, {})], None
    except Exception as error:  # JAX raises several kinds where a symbolic size can't be.
        if not function.buckets:
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
    programs = [
        _lowered(function, model_def, weights, platforms, sizes) for sizes in function.buckets
    ]
    return programs, reason


def lower_static(function: Function, model_def: ModelDef, weights: Weights) -> StaticProgram:
    """Lower a function for `function.static_sizes`; its inputs must be arrays."""
    exported = _lowered(function, model_def, weights, ("cpu",), function.static_sizes).exported
    names = [*sorted(weights), *function.inputs]
    return StaticProgram(
        exported.mlir_module(),
        [*zip(names, exported.in_avals, strict=True)],
        [*zip(sorted(function.results), exported.out_avals, strict=True)],
    )


def _lowered(
    function: Function,
    model_def: ModelDef,
    weights: Weights,
    platforms: Sequence[str],
    sizes: Mapping[str, int],
) -> Program:
    scope = export.SymbolicScope()
    inputs = [_abstract(specs, sizes, scope) for specs in function.inputs.values()]

    def call(weights: Weights, *inputs: Any) -> Results:
        return function.call(model_def.bind(*_trees(weights)), *inputs)

    call.__name__ = function.name
    compiled = jax.jit(call, keep_unused=True)
    with _without_source_lines():
        exported = export.export(compiled, platforms=tuple(platforms))(weights, *inputs)
    return Program(function, exported, sizes)


@contextmanager
def _without_source_lines() -> Iterator[None]:
    """Lower without the paths and lines of the Python files, which JAX keeps for its messages."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)


def _trees(weights: Weights) -> tuple[Tree, Tree]:
    """Return the nested parameters and batch statistics."""
    params, statistics = (
        nested({n.removeprefix(start): x for n, x in weights.items() if n.startswith(start)})
        for start in (PARAMS, STATISTICS)
    )
    return params, statistics


def _abstract(specs: Specs, sizes: Mapping[str, int], scope: export.SymbolicScope) -> Any:
    if not isinstance(specs, ArraySpec):
        return {name: _abstract(spec, sizes, scope) for name, spec in specs.items()}
    text = ", ".join(
        re.sub(r"[a-z_]+", lambda name: str(sizes.get(name[0], name[0])), str(size))
        for size in specs.shape
    )
    return jax.ShapeDtypeStruct(export.symbolic_shape(text, scope=scope), specs.dtype)
