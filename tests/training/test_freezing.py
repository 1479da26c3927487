"""Frozen parameters stay as they are, cost nothing, and are told."""

import jax
import numpy as np
import pytest

from configs.errors import UsageError
from reporting.explanation import explain_parameters
from tests.training import runs
from training.trees import flat

SMALL = {"model__depth": "1", "data__sequence_length": "16", "mesh__data": "1"}
FROZEN = "embedding.*,backbone.layers.0.mixer.*"


def load(**fields: str):
    return runs.load("shakespeare_char", **SMALL, **fields)


def is_frozen(name: str) -> bool:
    return name.startswith(("embedding.", "backbone.layers.0.mixer."))


def test_what_is_frozen_does_not_move_and_has_neither_moments_nor_average():
    program = runs.build(load(train__freeze=FROZEN, train__ema_decay="0.9"))
    before = flat(jax.device_get(program.initialize().params))
    state = runs.train(program, 2)
    for name, value in flat(jax.device_get(state.params)).items():
        assert np.array_equal(value, before[name]) == is_frozen(name), name
    trainable = [name for name in before if not is_frozen(name)]
    assert list(flat(state.ema)) == trainable
    assert not [name for name in flat(state.optimizer) if "embedding" in name or "mixer." in name]
    assert flat(state.eval_params).keys() == before.keys()
    assert program.trained == set(trainable)
    assert 0 < program.trained_count < program.model_def.parameter_count


def products(program) -> int:
    """Matrix products of a step, before the compiler sees it."""
    rows = next(runs.batches(program.config, 1))
    batch = program.batch_shape(rows, program.config.data.global_batch_size)
    return program.train_step.lower(program.abstract_state, batch).as_text().count("dot_general")


def test_no_gradient_is_computed_for_what_is_frozen():
    whole, head = (products(runs.build(load(**fields))) for fields in (
        {}, {"train__freeze": "backbone.*,embedding.tokens.*"},
    ))  # fmt: skip
    forward = 7 + 2 + 1  # of projections and feed-forward, of attention, of the head
    assert head < whole - 2 * (forward - 2)
    assert head <= forward + 3


def test_patterns_that_freeze_nothing_or_everything_are_refused():
    with pytest.raises(UsageError, match=r"train\.freeze: 'embeding\.\*' matches no .*embedding"):
        runs.build(load(train__freeze="embeding.*"))
    with pytest.raises(UsageError, match=r"train\.freeze=\* leaves nothing to train"):
        runs.build(load(train__freeze="*"))


def test_explain_shows_what_is_frozen():
    told = explain_parameters(load(train__freeze=FROZEN))
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}
    assert rows["embedding.tokens.embedding"] == ["frozen"]
    assert rows["backbone.norm.scale"] == ["adamw", "0.001", "0"]
