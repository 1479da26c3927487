"""Initialisation of a run from a pretrained model: which of its arrays fit, and how they are
loaded."""

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
from training.arrays import restore_fields
from training.lora import merged
from training.parameters import LORA
from training.program import TrainProgram
from training.restore import choose_step, ema_statistics_field
from training.trees import LogicalAxes, Tree, flat, nested, overlay

LEAST_SHARE = 0.5
"""Smallest share of the model's parameters, counted by name, that the pretrained model must
have."""

MOST_NAMES = 8
"""Largest number of names in a message."""

_TABLES = {"vocabulary", "positions"}
"""Axes of tables that two models may have in different lengths: only the common rows are taken."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape, dtype and logical axes of one array of a pretrained model."""

    shape: tuple[int, ...]
    dtype: str
    axes: LogicalAxes


@dataclass(frozen=True)
class Pretrained:
    """A trained model that a run may be initialised from.

    name: its name in messages.
    metadata: JSON that identifies it in the run's manifests.
    config: the configuration it was trained with; None if unknown.
    params, statistics: shape, dtype and axes of its arrays, by name.
    load(params, statistics, program): returns the arrays with these names, on the program's mesh;
        call it only once.
    notes: messages about the model.
    """

    name: str
    metadata: Mapping[str, Any]
    config: Config | None
    params: Mapping[str, ArraySpec]
    statistics: Mapping[str, ArraySpec]
    load: Callable[[Sequence[str], Sequence[str], TrainProgram], tuple[Tree, Tree]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """How a run's parameters are initialised: fresh, or from a pretrained model.

    messages: lines for the user.
    params, statistics: names of the arrays taken from `pretrained`.
    """

    messages: tuple[str, ...] = ()
    pretrained: Pretrained | None = None
    params: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """Return the metadata of the pretrained model, for the run's manifests; None without
        one."""
        return None if self.pretrained is None else self.pretrained.metadata

    def load(self, program: TrainProgram) -> tuple[Tree, Tree]:
        """Load the pretrained parameters and batch statistics, as arguments for
        `program.initialize`; (None, None) if all are fresh."""
        if self.pretrained is None:
            return None, None
        return self.pretrained.load(self.params, self.statistics, program)


def plan_warm_start(
    pretrained: Pretrained | None, config: Config, program: TrainProgram
) -> WarmStart:
    """Plan how a new run of `config` is initialised: from `pretrained`, or fresh if it is None.

    Raises `UsageError` if `pretrained` has less than `LEAST_SHARE` of the parameters, or if a
    parameter that it lacks would stay frozen at random values.
    """
    warm_start = WarmStart() if pretrained is None else _compare(pretrained, config, program)
    trained, count = program.trained_count, program.model_def.parameter_count
    if trained == count:
        return warm_start
    line = f"trains {trained:,} of {count:,} parameters"
    return replace(warm_start, messages=(*warm_start.messages, line))


def open_pretrained(workdir: Path, step: str, warn: Callable[[str], None]) -> Pretrained:
    """Open a checkpoint of a workdir as a pretrained model. Averaged weights, if the checkpoint has
    them, take the place of the raw ones.

    LoRA pairs are merged. Arrays are read directly into the shards of the program's mesh, with
    their dtypes on the disk; merged matrices are float32.

    step: a number, "best" or "latest".
    warn: called with a message about each damaged checkpoint.

    Raises `UsageError` if the folder is no workdir or does not have the step.
    """
    config, folder = read_config(workdir), workdir / "checkpoints"
    number, manifest, step_lock = choose_step(
        workdir, config, step, warn, option="train.initialize_step"
    )
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
            # The average has the axes and shape of its parameter, but a dtype of its own.
            stored = replace(params[name], dtype=leaves[f"{field}.{name}"].dtype)
            target[f"{field}.{name}"] = _abstract(stored, program)
        for name in statistics:
            target[f"{measured}.{name}"] = _abstract(leaves[f"{measured}.{name}"], program)
        with step_lock:
            fields = restore_fields(folder, number, manifest, "model", nested(target))
        loaded = overlay(fields.get("params"), fields.get("ema"))
        if lora.rank is not None:
            axes = {name: params[name].axes for name in names}
            loaded = _merge(loaded, axes, lora.alpha / lora.rank)
        return loaded, fields.get(measured)

    weights = "averaged weights" if averages else "weights"
    return Pretrained(
        name=f"the {weights} of {workdir}, step {number}",
        metadata={
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
    params: Tree,
    statistics: Tree,
    *,
    name: str,
    metadata: Mapping[str, Any],
    config: Config | None = None,
    notes: Sequence[str] = (),
) -> Pretrained:
    """Make a pretrained model from NumPy arrays in memory, trees like `TrainState.params` and
    `TrainState.statistics`.

    Each array is freed once it is on the mesh. The other arguments are as in `Pretrained`.
    """
    arrays, measured = flat(params), flat(statistics)

    def load(
        names: Sequence[str], taken: Sequence[str], program: TrainProgram
    ) -> tuple[Tree, Tree]:
        axes, rules = flat(program.model_def.graph.axes()), program.config.mesh.rules.model_dump()
        placed = {}
        for one in names:
            array = arrays.pop(one)
            place = named_sharding(axes[one], array.shape, mesh=program.mesh, rules=rules)
            placed[one] = jax.make_array_from_callback(array.shape, place, array.__getitem__)
        arrays.clear()
        everywhere = replicated(program.mesh)
        replicas = {
            one: jax.make_array_from_callback(
                measured[one].shape, everywhere, measured[one].__getitem__
            )
            for one in taken
        }
        return nested(placed), nested(replicas)

    return Pretrained(name, metadata, config, _specs(arrays), _specs(measured), load, tuple(notes))


def _specs(arrays: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Describe arrays whose logical axes are unknown."""
    return {name: ArraySpec(array.shape, str(array.dtype), ()) for name, array in arrays.items()}


def _compare(pretrained: Pretrained, config: Config, program: TrainProgram) -> WarmStart:
    """Return the warm start that takes the arrays of `pretrained` that fit the program's model.

    An array fits if it has the same name and shape. Tables of tokens and positions may differ in
    length: the rows that both models have are taken. Raises `UsageError` as `plan_warm_start` does.
    """
    axes, lora = flat(program.model_def.graph.axes()), config.train.lora.rank is not None
    own = flat(program.model_def.own_params)
    taken, fresh, cut = _fitting(own, pretrained.params, axes)
    changed = differences(pretrained.config, config) if pretrained.config else []
    settings = [str(one) for one in changed if one.field.startswith("model.")]
    if len(taken) < LEAST_SHARE * len(own):
        arrays = _listed([f"{name} ({why})" for name, why in fresh.items()])
        raise UsageError(
            f"train.initialize_from: {len(taken)} of {len(own)} parameters are as in "
            f"{pretrained.name}: {'; '.join([*settings, arrays])}"
        )
    if untrained := [name for name in fresh if name not in program.trained]:
        hint = "name them in train.lora.train_also" if lora else "let them move"
        raise UsageError(
            f"train.{'lora' if lora else 'freeze'} would leave random what {pretrained.name} does "
            f"not have: {hint}, {_listed(untrained)}"
        )
    statistics, unlike, _ = _fitting(
        flat(program.abstract_state.statistics), pretrained.statistics, {}
    )
    messages = [f"begins with {pretrained.name}", *pretrained.notes]
    for label, names in (
        ("unlike there", settings),
        ("fresh", [f"{name} ({why})" for name, why in (fresh | unlike).items()]),
        ("taken as far as they go", [f"{name} ({why})" for name, why in cut.items()]),
        ("not taken", [name for name in pretrained.params if name not in own]),
    ):
        messages += [f"{label}: {_listed(names)}"] if names else []
    return WarmStart(tuple(messages), pretrained, tuple(taken), tuple(statistics))


def _fitting(
    leaves: Mapping[str, Any],
    stored: Mapping[str, ArraySpec],
    axes: Mapping[str, LogicalAxes],
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Compare `leaves` with `stored`. Return the names that are taken from `stored`, the reason for
    each name that is not, and how the lengths of each partly taken table differ.

    axes: the logical axes of the leaves, by name.
    """
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
    """Return the arrays of one field of a state, by their names within the field."""
    start = f"{field}."
    return {name.removeprefix(start): one for name, one in leaves.items() if name.startswith(start)}


def _abstract(stored: ArraySpec, program: TrainProgram) -> jax.ShapeDtypeStruct:
    """Return the abstract array for a stored array, with its sharding on the program's mesh."""
    sharding = replicated(program.mesh)
    if stored.axes:
        rules = program.config.mesh.rules.model_dump()
        sharding = named_sharding(stored.axes, stored.shape, mesh=program.mesh, rules=rules)
    return jax.ShapeDtypeStruct(stored.shape, jnp.dtype(stored.dtype), sharding=sharding)


def _merge(params: Tree, axes: Mapping[str, LogicalAxes], scale: float) -> Tree:
    """Merge LoRA pairs (`training.lora.merged`), keeping the sharding of each matrix."""
    matrices = {name: value for name, value in params.items() if name != LORA}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, matrices)
    merge = jax.jit(functools.partial(merged, axes=axes, scale=scale), out_shardings=shardings)
    return merge(params)


def _difference(now: tuple[int, ...], was: tuple[int, ...], axes: LogicalAxes) -> str:
    """Return how two shapes differ, for example "10 instead of 6 classes"."""
    if len(now) != len(was):
        return f"{list(now)} instead of {list(was)}"
    sides = zip(now, was, axes, strict=True)
    return ", ".join(f"{n} instead of {w} {axis or ''}".rstrip() for n, w, axis in sides if n != w)


def _listed(names: list[str]) -> str:
    """Join the first names as text, and say how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
