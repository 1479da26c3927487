"""The first operation that makes a number that is not finite is named, with its line."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reporting.nan_hunt import explain_not_finite
from tests.training import runs

STATE, BATCH = {"w": jnp.ones(4)}, {"x": np.arange(4.0, dtype=np.float32)}


def forward(state, batch):
    h = state["w"] * batch["x"]
    return jnp.sum(jnp.log(h - 5) * h)


def backward(state, batch):
    return jax.grad(lambda w: jnp.sum(jnp.sqrt(w * batch["x"])))(state["w"])


def scanned(state, batch):
    def body(carry, x):
        carry = carry - jnp.log(x)
        return carry, carry

    return jax.lax.scan(body, jnp.zeros(()), state["w"] * batch["x"], reverse=True)


def rematerialised(state, batch):
    @jax.checkpoint
    def inner(w):
        return jnp.sum(jnp.arccos(w * batch["x"]))

    return jax.grad(inner)(state["w"])


def branched(state, batch):
    return jax.lax.cond(batch["x"][3] > 2, lambda w: jnp.log(w - 1), jnp.exp, state["w"])


def through_a_library(state, batch):
    jax.nn.softmax(batch["x"])  # traced here first: its operations keep this line
    return jax.nn.softmax(batch["x"] * jnp.inf)


def line_of(function, text: str) -> str:
    lines, begin = inspect.getsourcelines(function)
    at = begin + next(i for i, line in enumerate(lines) if text in line)
    return f"tests/reporting/test_nan_hunt.py:{at} "


@pytest.mark.parametrize(
    ("step", "kind", "operation", "way", "line"),
    [
        (forward, "NaN", "log", "forward", "jnp.log"),
        (backward, "infinity", "", "backward", "jnp.sqrt"),
        (scanned, "infinity", "log", "forward", "jnp.log"),
        (rematerialised, "NaN", "", "", "jnp.arccos"),
        (branched, "infinity", "log", "forward", "jnp.log"),
        (through_a_library, "NaN", "", "forward", "jnp.inf"),
    ],
)
def test_the_operation_its_line_and_its_way_are_named(step, kind, operation, way, line):
    told = explain_not_finite(jax.jit(step), STATE, BATCH)
    assert f"the first {kind} comes out of `{operation}" in told
    named = told[told.index(f"first {kind}") :]
    assert way in named and line_of(step, line) in named, told


def test_a_mask_of_infinities_is_no_finding():
    def masked(state, batch):
        scores = jnp.where(batch["x"] > 1, state["w"], -jnp.inf)
        return jnp.log(jnp.sum(jnp.exp(scores)) - 9)

    told = explain_not_finite(jax.jit(masked), STATE, BATCH)
    assert told.startswith("the first NaN comes out of `log`") and "infinity" not in told


def test_what_was_not_finite_before_the_step_is_named():
    told = explain_not_finite(jax.jit(forward), STATE, {"x": np.array([1, np.nan, 0, 0])})
    assert "batch['x']" in told


def test_a_whole_step_on_a_mesh_can_be_gone_through():
    """Weights that are finite, and so large that their products are not: found in the LSTM."""
    small = {"data__sequence_length": "4", "model__depth": "1"}
    program = runs.build(runs.load("shakespeare_char_lstm", mesh__data="2", **small))
    state = program.initialize()
    huge = state.replace(params=jax.tree.map(lambda p: p + 3e38, state.params))
    batch = next(iter(runs.batches(program.config, 1)))
    told = explain_not_finite(program.train_step, huge, batch)
    assert "comes out of" in told and "(forward, model/" in told
