"""Parameters that never moved, and units that are always zero."""

import jax
import jax.numpy as jnp
import pytest

from reporting.activity import LOOKED_AT, dead_units, unmoved_parameters, without_gradient
from tests.training import runs
from training.optimizers import build_optimizer
from training.trees import Axes


def test_what_a_setting_holds_is_named_with_it_unless_it_is_trained_already():
    held = {
        "stages.0.convolution.kernel": "train.freeze",
        "stages.1.convolution.kernel": "optimizer.learning_rate_multipliers",
    }
    program = runs.build(
        runs.load(
            "digits_cnn",
            mesh__data="1",
            train__freeze="stages.0.convolution.*",
            optimizer__learning_rate_multipliers="stages.1.convolution.*=0",
        )
    )
    fresh = program.initialize()  # Nothing has had a gradient yet.
    others = dict.fromkeys(program.trained - held.keys(), "")
    assert unmoved_parameters(program, fresh, begun_elsewhere=False) == held | others
    assert unmoved_parameters(program, fresh, begun_elsewhere=True) == others


@pytest.mark.parametrize(
    "optimizer", ["adamw", "sgd", "lion", "muon", "adafactor", "schedule_free"]
)
def test_what_never_had_a_gradient_is_told_from_what_any_optimizer_keeps(optimizer):
    config = runs.load("digits_cnn", optimizer__name=optimizer)
    names = {"dense.kernel": ("embed", "mlp"), "classes.kernel": ("mlp", "classes")}
    axes = {name.partition(".")[0]: {"kernel": Axes(of)} for name, of in names.items()}
    params = {name: {"kernel": jnp.ones((4, 4))} for name in axes}
    optimizer = build_optimizer(config, axes)
    state = optimizer.init(params)
    assert without_gradient(state, names) == set(names)
    gradients = {"dense": {"kernel": jnp.zeros((4, 4))}, "classes": {"kernel": jnp.eye(4)}}
    for _ in range(2):
        *_, state = optimizer.update(gradients, state, params, 1e-3, jax.random.key(0))
    assert without_gradient(state, names) == {"dense.kernel"}
    assert without_gradient(state, {"elsewhere.kernel"}) == set()


def test_units_that_are_zero_for_all_examples_are_counted_layer_by_layer():
    program = runs.build(runs.load("digits_cnn", mesh__data="1"))
    count = LOOKED_AT // program.config.data.global_batch_size
    batches = [*runs.batches(program.config, count)]
    bias = jnp.zeros(32).at[:20].set(-1.0)
    dense = {"kernel": jnp.zeros((256, 32)).at[0, 20:].set(1.0), "bias": bias}
    state = program.initialize({"dense": dense})
    first, second, dead = dead_units(program, state, batches.__getitem__)
    assert (first[1], second[1], dead) == (32, 64, (20, 32))
    assert first[0] < 8 and second[0] < 8
