"""The parameters that a new run begins with: those of another run's checkpoint."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from configs.errors import UsageError
from configs.reading.saved import differences, read_config
from configs.schema.config import Config
from parallel.axes import named_sharding, replicated
from training.checkpoints import restore_fields
from training.lora import merged
from training.parameters import LORA
from training.program import TrainProgram
from training.restore import choose_step, ema_statistics_field
from training.step import TrainState
from training.trees import flat, nested, overlay

Tree = Any

LEAST_SHARE = 0.5
"""Of a model's parameters, counted by name, that another run has to have."""

MOST_NAMES = 8
"""That a line tells."""

_TABLES = {"vocabulary", "positions"}
"""Axes along which rows that both have mean the same: a task adds tokens at the end."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the model that is there: its shape, dtype and logical axes."""

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str | None, ...]


@dataclass(frozen=True)
class Pretrained:
    """A trained model that a run may begin with.

    name: what it is called in what is told. facts: what it is, for the manifests of the run, as
    JSON. config: of its run, where there was one. params, statistics: the arrays that there are,
    by their names. load(params, statistics, program): the arrays of these names, on the mesh of
    the program; to be called once. notes: lines about it.
    """

    name: str
    facts: Mapping[str, Any]
    config: Config | None
    params: Mapping[str, ArraySpec]
    statistics: Mapping[str, ArraySpec]
    load: Callable[[Sequence[str], Sequence[str], TrainProgram], tuple[Tree, Tree]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """What a run begins with: the names of the parameters and batch statistics that it takes of an
    origin, if there is one; and what is told of that."""

    told: tuple[str, ...] = ()
    origin: Pretrained | None = None
    params: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """What the origin is, for the manifests of the run."""
        return None if self.origin is None else self.origin.facts

    def state(self, program: TrainProgram) -> TrainState:
        """The state before the first step, born in its shards."""
        if self.origin is None:
            return program.initialize()
        return program.initialize(*self.origin.load(self.params, self.statistics, program))


def plan_warm_start(origin: Pretrained | None, config: Config, program: TrainProgram) -> WarmStart:
    """What a new run of `config` begins with.

    Raises `configs.UsageError` where less than `LEAST_SHARE` of the model is that of `origin`, and
    for what would stay random for ever.
    """
    warm_start = WarmStart() if origin is None else _compare(origin, config, program)
    trained, count = program.trained_count, program.model_def.parameter_count
    told = (f"trains {trained:,} of {count:,} parameters",) if trained < count else ()
    return replace(warm_start, told=(*warm_start.told, *told))


def open_pretrained(workdir: Path, step: str, warn: Callable[[str], None]) -> Pretrained:
    """The model of a step of a workdir: averaged weights where there are, changes of LoRA merged.

    Arrays go from the disk, in the dtypes they have there, into the shards of the mesh that asks
    for them; what was merged is float32. Damaged checkpoints are
    named through `warn`. Raises `configs.UsageError` for a folder that is no workdir, or has not
    the step.
    """
    config, folder = read_config(workdir), workdir / "checkpoints"
    number, manifest, held = choose_step(workdir, config, step, warn, asked="train.initialize_step")
    leaves = {
        name: ArraySpec(tuple(leaf["shape"]), leaf["dtype"], tuple(leaf.get("axes", ())))
        for name, leaf in manifest["leaves"].items()
    }
    params = _under("params", leaves)
    averages = _under("ema", leaves)
    measured = ema_statistics_field(folder, manifest, warn) if averages else "statistics"
    lora = config.train.lora

    def load(
        names: Sequence[str], statistics: Sequence[str], program: TrainProgram
    ) -> tuple[Tree, Tree]:
        pairs = [f"{LORA}.{name}.{letter}" for name in names for letter in "ab"]
        target = {}
        for name in (*names, *(one for one in pairs if one in params)):
            field = "ema" if name in averages else "params"
            # The average has axes and shape of its parameter, and a dtype of its own.
            stored = replace(params[name], dtype=leaves[f"{field}.{name}"].dtype)
            target[f"{field}.{name}"] = _abstract(stored, program)
        for name in statistics:
            target[f"{measured}.{name}"] = _abstract(leaves[f"{measured}.{name}"], program)
        with held:
            found = restore_fields(folder, number, manifest, "model", nested(target))
        loaded = overlay(found.get("params"), found.get("ema"))
        if lora.rank is not None:
            axes = {name: params[name].axes for name in names}
            loaded = _merge(loaded, axes, lora.alpha / lora.rank)
        return loaded, found.get(measured)

    weights = "averaged weights" if averages else "weights"
    return Pretrained(
        name=f"the {weights} of {workdir}, step {number}",
        facts={
            "workdir": str(workdir.absolute()),
            "step": number,
            "weights": "ema" if averages else "raw",
            "digest": manifest["digest"],
        },
        config=config,
        params={name: one for name, one in params.items() if not name.startswith(f"{LORA}.")},
        statistics=_under(measured, leaves),
        load=load,
    )


def pretrained_from_arrays(
    params: Tree, *, name: str, facts: Mapping[str, Any], notes: Sequence[str] = ()
) -> Pretrained:
    """A model whose parameters are at hand: NumPy arrays under the names of `TrainState.params`.

    They are let go of as they are loaded."""
    arrays = flat(params)
    stored = {one: ArraySpec(array.shape, str(array.dtype), ()) for one, array in arrays.items()}

    def load(names: Sequence[str], _: Sequence[str], program: TrainProgram) -> tuple[Tree, Tree]:
        axes, rules = flat(program.model_def.graph.axes()), program.config.mesh.rules.model_dump()
        placed = {}
        for one in names:
            array = arrays.pop(one)
            place = named_sharding(axes[one], array.shape, mesh=program.mesh, rules=rules)
            placed[one] = jax.make_array_from_callback(array.shape, place, array.__getitem__)
        arrays.clear()
        return nested(placed), None

    return Pretrained(name, facts, None, stored, {}, load, tuple(notes))


def _compare(origin: Pretrained, config: Config, program: TrainProgram) -> WarmStart:
    """What of `origin` fits the program's model: what has the same shape under the same name, and
    tables of tokens and positions as far as they go.

    Raises `configs.UsageError` where less than `LEAST_SHARE` fits, and where something that begins
    fresh is frozen.
    """
    axes, lora = flat(program.model_def.graph.axes()), config.train.lora.rank is not None
    own = flat(program.model_def.own_params)
    taken, fresh, cut = _fitting(own, origin.params, axes)
    changed = differences(origin.config, config) if origin.config else []
    settings = [str(one) for one in changed if one.field.startswith("model.")]
    if len(taken) < LEAST_SHARE * len(own):
        arrays = _listed([f"{name} ({why})" for name, why in fresh.items()])
        raise UsageError(
            f"train.initialize_from: {len(taken)} of {len(own)} parameters are as in "
            f"{origin.name}: {'; '.join([*settings, arrays])}"
        )
    if untrained := [name for name in fresh if name not in program.trained]:
        hint = "name them in train.lora.train_also" if lora else "let them move"
        raise UsageError(
            f"train.{'lora' if lora else 'freeze'} would leave random what {origin.name} does not "
            f"have: {hint}, {_listed(untrained)}"
        )
    statistics, unlike, _ = _fitting(flat(program.abstract_state.statistics), origin.statistics, {})
    told = [f"begins with {origin.name}", *origin.notes]
    for what, names in (
        ("unlike there", settings),
        ("fresh", [f"{name} ({why})" for name, why in (fresh | unlike).items()]),
        ("taken as far as they go", [f"{name} ({why})" for name, why in cut.items()]),
        ("not taken", [name for name in origin.params if name not in own]),
    ):
        told += [f"{what}: {_listed(names)}"] if names else []
    return WarmStart(tuple(told), origin, tuple(taken), tuple(statistics))


def _fitting(
    leaves: Mapping[str, Any],
    stored: Mapping[str, ArraySpec],
    axes: Mapping[str, tuple[str | None, ...]],
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Of the names of `leaves` those that are taken from `stored`; those that are not, and why; and
    what is longer or shorter of tables that are taken. axes: of the leaves, by their names."""
    taken, fresh, cut = [], {}, {}
    for name, leaf in leaves.items():
        if name not in stored:
            fresh[name] = "not there"
            continue
        now, was = leaf.shape, stored[name].shape
        named = axes[name] if name in axes else (None,) * len(now)
        sides = zip(named, now, was, strict=False)
        different = {axis for axis, size, other in sides if size != other}
        if len(now) != len(was) or not different <= _TABLES:
            fresh[name] = _difference(now, was, named)
            continue
        taken.append(name)
        if different:
            cut[name] = _difference(now, was, named)
    return taken, fresh, cut


def _under(field: str, leaves: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """The arrays of one field of a state, by their names in it."""
    start = f"{field}."
    return {name.removeprefix(start): one for name, one in leaves.items() if name.startswith(start)}


def _abstract(stored: ArraySpec, program: TrainProgram) -> jax.ShapeDtypeStruct:
    """A stored array where it belongs on the program's mesh."""
    sharding = replicated(program.mesh)
    if stored.axes:
        rules = program.config.mesh.rules.model_dump()
        sharding = named_sharding(stored.axes, stored.shape, mesh=program.mesh, rules=rules)
    return jax.ShapeDtypeStruct(stored.shape, jnp.dtype(stored.dtype), sharding=sharding)


def _merge(params: Tree, axes: Mapping[str, tuple[str | None, ...]], scale: float) -> Tree:
    """`training.lora.merged`, each array where its matrix lay."""
    own = {name: value for name, value in params.items() if name != LORA}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, own)
    merge = jax.jit(functools.partial(merged, axes=axes, scale=scale), out_shardings=shardings)
    return merge(params)


def _difference(now: tuple[int, ...], was: tuple[int, ...], axes: tuple[str | None, ...]) -> str:
    """ "10 instead of 6 classes"."""
    if len(now) != len(was):
        return f"{list(now)} instead of {list(was)}"
    sides = zip(now, was, axes, strict=True)
    return ", ".join(f"{n} instead of {w} {axis or ''}".rstrip() for n, w, axis in sides if n != w)


def _listed(names: list[str]) -> str:
    """Some of the names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
