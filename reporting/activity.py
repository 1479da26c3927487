"""Diagnoses a run, and finds inactive parts of its model.

Inactive parts are parameters that training never changed, and units that are always zero.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.layers.activations import capture_activations
from parallel.axes import replicated
from parallel.feeding import put_batch
from reporting.diagnosis import verdict
from reporting.findings import LEAST_STEPS, Facts
from reporting.report.inside import watched
from training.model_def import compile_for_mesh
from training.optimizers import parameter_groups
from training.program import TrainProgram
from training.step import TrainState
from training.trees import flat

Tree = Any

LOOKED_AT = 256
"""Number of examples to look at. A unit that is zero for all of them counts as dead. With fewer
examples, a unit that only rare inputs need would count too."""

_ZERO = 1e-3
"""Largest magnitude that counts as zero. The output of GELU is this small at -4, that of SiLU at
-9."""

_NO_GRADIENT = 1e-25
"""Largest optimizer moment of a parameter that never had a gradient. Adafactor adds 1e-30 to
squared gradients, so the moment is not exactly zero."""


def diagnose_run(
    program: TrainProgram,
    state: TrainState | None,
    batch: Callable[[int], Mapping[str, np.ndarray]],
    *,
    metrics: Sequence[Mapping[str, Any]],
    data_facts: Mapping[str, Any],
    begun_elsewhere: bool,
) -> list[str]:
    """Diagnose a run, and return the findings as lines of text (`verdict`).

    state: the last state; None if the model can't be examined.
    batch(k): returns training batch k.
    metrics: from `read_metrics`.
    data_facts: the fields of `Facts` that describe the data.
    begun_elsewhere: whether the run was initialised from another model.
    """
    facts = Facts(program.config, metrics, begun_elsewhere, **data_facts)
    if state is not None and int(state.step) >= LEAST_STEPS:  # The same in all processes.
        unmoved = unmoved_parameters(program, state, begun_elsewhere=begun_elsewhere)
        facts = replace(facts, unmoved=unmoved, dead=dead_units(program, state, batch))
    return verdict(facts)


def unmoved_parameters(
    program: TrainProgram, state: TrainState, *, begun_elsewhere: bool
) -> dict[str, str]:
    """Return {name: field} for each parameter that still has its initial value.

    field: the setting that keeps the parameter fixed, `train.freeze` or
    `optimizer.learning_rate_multipliers`; "" if the parameter never had a gradient. SGD without
    momentum keeps no moments, so missing gradients are not detected.

    begun_elsewhere: whether the run was initialised from another model. If so, parameters that a
    setting keeps fixed are left out, because they were trained before.
    """
    held = {}
    param_groups = parameter_groups(program.config, program.model_def.graph.axes())
    for name, param_group in flat(param_groups).items():
        if name not in program.trained:
            held[name] = "train.freeze"
        elif param_group.multiplier == 0:
            held[name] = "optimizer.learning_rate_multipliers"
    found = {} if begun_elsewhere else dict(held)
    still = without_gradient(state.optimizer, program.trained)
    return found | dict.fromkeys(sorted(still - held.keys()), "")


def without_gradient(optimizer: Tree, names: Iterable[str]) -> set[str]:
    """Return the parameters, among `names`, that never had a gradient: all their values in the
    optimizer's state are zero. Parameters without optimizer state are left out."""
    kept: dict[str, list[jax.Array]] = {}
    for path, leaf in flat(optimizer).items():
        parts = path.split(".")
        if "fast" not in parts:  # Schedule-free's second copy of the parameters.
            ends = {".".join(parts[start:]) for start in range(len(parts))}
            for name in ends.intersection(names):
                kept.setdefault(name, []).append(leaf)

    @jax.jit
    def largest(kept):
        return {name: [jnp.max(jnp.abs(one)) for one in of] for name, of in kept.items()}

    # Every process gets the maximum of the whole array, even if it is sharded.
    found = {name: max(map(float, of)) for name, of in largest(kept).items()}
    return {name for name, one in found.items() if one <= _NO_GRADIENT}


def dead_units(
    program: TrainProgram, state: TrainState, batch: Callable[[int], Mapping[str, np.ndarray]]
) -> list[tuple[int, int]]:
    """Return (dead units, all units) for each activation of the model.

    A unit is dead if it is zero at every position of `LOOKED_AT` examples.

    batch(k): returns training batch k.

    Returns [] if the run has several processes.
    """
    if jax.process_count() > 1:
        return []

    def largest(one: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(one), axis=range(one.ndim - 1))

    look = compile_for_mesh(
        functools.partial(watched, program, capture_activations, largest),
        mesh=program.mesh,
        rules=program.config.mesh.rules.model_dump(),
        out_shardings=replicated(program.mesh),
    )
    size = program.config.data.global_batch_size
    first = batch(0)
    found: list[np.ndarray] = []
    for number in range(-(-LOOKED_AT // size)):
        rows = batch(number)
        if all(rows[name].shape == first[name].shape for name in first):  # Compiled once.
            placed = put_batch(rows, program.batch_sharding, size)
            try:
                shown = jax.device_get(look(state.eval_params, state.eval_statistics, placed))
            except jax.errors.UnexpectedTracerError:  # Layers in a loop written in the model.
                return []
            found = [np.maximum(*pair) for pair in zip(found or shown, shown, strict=True)]
    return [(int((one <= _ZERO).sum()), one.size) for one in found]
