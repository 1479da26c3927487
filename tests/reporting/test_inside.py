"""What the report shows of a model: the right kernel, and the weights that attention really had."""

import jax
import numpy as np
import pytest

from model.layers.attend import AttentionMask, attend, capture_attention
from reporting.report.inside import MOST_POSITIONS, attention_maps, first_filters, look_inside
from tests.training import runs
from training.trees import Axes


def opened(recipe: str, **fields: str):
    """A fresh program, its state and a batch of one example."""
    program = runs.build(runs.load(recipe, **fields))
    batch = next(runs.batches(program.config, 1))
    return program, program.initialize(), {name: rows[:1] for name, rows in batch.items()}


class One:
    """A split of one example."""

    def __init__(self, batch):
        self.rows = batch

    def __call__(self, number):
        return self.rows["image"][number]

    def batch(self, number):
        return self.rows

    def tokens(self, number):
        return [str(token) for token in self.rows["tokens"][number]]


def test_the_filters_are_those_of_the_convolution_over_the_picture():
    program, state, batch = opened("digits_cnn", mesh__data="2", mesh__fsdp="4")
    found = look_inside(program, state.params, state.statistics, One(batch))
    kernel = state.params["stages"]["0"]["convolution"]["kernel"]
    np.testing.assert_array_equal(found["filters"], np.moveaxis(kernel, 3, 0))
    assert found["attention"] == []


def test_patches_that_are_projected_have_filters_and_other_kernels_have_none():
    random = np.random.default_rng(0)
    kernels = {
        "depthwise": (random.normal(size=(7, 7, 1, 8)), (None, None, None, "channels_out")),
        "mlp": (random.normal(size=(48, 8)), ("mlp", "embed")),
        "one": (random.normal(size=(1, 1, 3, 8)), (None, None, "channels_in", "channels_out")),
        "scalar": (np.float32(1), ()),
    }
    patches = random.normal(size=(4, 4, 3, 8)).astype(np.float32)

    def found(kernels):
        params = {name: kernel for name, (kernel, _) in kernels.items()}
        axes = {name: Axes(names) for name, (_, names) in kernels.items()}
        return first_filters(params, axes, 3)

    assert found(kernels) is None
    kernels["patches"] = (patches, (None, None, None, "embed"))
    np.testing.assert_array_equal(found(kernels), np.moveaxis(patches, 3, 0))


@pytest.mark.parametrize(
    "fields",
    [
        {"mesh__fsdp": "8"},
        {"model__remat": "full"},
        {"model__scan_layers": "true", "model__remat": "dots"},
    ],
    ids=["fsdp", "remat", "scanned"],
)
def test_the_attention_of_every_layer_is_seen_however_it_is_laid_out(fields):
    fields = {"mesh__data": "1", "model__attention_window": "5"} | fields
    program, state, batch = opened("shakespeare_char", **fields)
    maps = attention_maps(program, state.params, state.statistics, batch)
    T, heads = MOST_POSITIONS, program.config.model.num_heads
    assert [one.shape for one in maps] == [(heads, T, T)] * program.config.model.depth
    distance = np.arange(T)[:, None] - np.arange(T)
    for one in maps:
        np.testing.assert_allclose(one.sum(axis=-1), 1, rtol=1e-5)
        assert (one[:, (distance < 0) | (distance >= 5)] == 0).all()


def test_the_weights_are_those_that_the_result_was_made_with():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 7, n, 8)) for key, n in zip(keys, (4, 2, 2), strict=True))
    mask = AttentionMask(causal=True, window=3)
    expected = attend(q, k, v, mask)
    seen = []
    with capture_attention(seen.append):
        watched = attend(q, k, v, mask, implementation="splash")
    attend(q, k, v, mask)
    (weights,) = seen
    np.testing.assert_allclose(watched, expected, rtol=1e-6)
    made = np.einsum("BNTS,BSNH->BTNH", weights, np.repeat(v, 2, axis=2))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


def test_a_model_without_attention_has_no_maps():
    program, state, batch = opened("shakespeare_char_lstm", mesh__data="1")
    what = (program, state.params, state.statistics, One(batch))
    assert look_inside(*what) == {"attention": []}


def test_the_tokens_or_the_picture_that_is_attended_to_comes_along():
    program, state, batch = opened("shakespeare_char", mesh__data="1")
    found = look_inside(program, state.params, state.statistics, One(batch))
    assert found["attended"] == [str(token) for token in batch["tokens"][0, :MOST_POSITIONS]]
    narrow = {"model__width": "32", "model__depth": "2", "data__global_batch_size": "16"}
    program, state, batch = opened("digits_vit", mesh__data="1", **narrow)
    found = look_inside(program, state.params, state.statistics, One(batch))
    np.testing.assert_array_equal(found["attended"], batch["image"][0])
