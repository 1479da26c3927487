"""What is left out of a text, and that evaluation leaves out the same each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import registry

V, B, T = 51, 64, 128  # the mask is 50
TOKENS = jax.random.randint(jax.random.key(0), (B, T), 0, V - 1)
WEIGHTS = jnp.ones((B, T)).at[:, -8:].set(0)
BATCH = {"tokens": TOKENS, "targets": jnp.zeros_like(TOKENS), "weights": WEIGHTS}
SETTINGS = {"label_smoothing": 0.0, "z_loss": 0.0, "loss_chunks": 1, "devices": 1}


class Watched:
    """A model whose logits say nothing, and that remembers what it was given."""

    vocabulary_size = V

    def hidden(self, tokens, *, segments_BT, dropout_key):
        self.tokens = tokens
        return jnp.zeros((*tokens.shape, 1)), None

    def head(self, x):
        return jnp.zeros((*x.shape[:2], V))


def build(**changes):
    return registry.build(
        "masked_language_modeling", **SETTINGS | {"mask_fraction": 0.15} | changes
    )


def test_of_the_tokens_left_out_most_are_masked_some_random_some_left():
    model = Watched()
    sums = build(mask_fraction=0.5).loss_sums(model, BATCH, dropout_key=jax.random.key(1))
    real = np.asarray(WEIGHTS, bool)
    assert sums["weight"] / real.sum() == pytest.approx(0.5, abs=0.03)
    masked = np.asarray(model.tokens == V - 1)
    changed = np.asarray(model.tokens != TOKENS)
    assert masked.sum() / sums["weight"] == pytest.approx(0.8, abs=0.03)
    # A random token is the right one in one case of fifty.
    assert (changed & ~masked).sum() / sums["weight"] == pytest.approx(0.1 * 49 / 50, abs=0.02)
    assert not changed[~real].any()
    np.testing.assert_allclose(sums["loss"], sums["weight"] * np.log(V), rtol=1e-5)


def test_what_stands_around_texts_is_never_left_out():
    model, framing = Watched(), (3, 7)
    task = build(mask_fraction=0.9, framing=framing)
    sums = task.loss_sums(model, BATCH, dropout_key=jax.random.key(1))
    around = np.isin(TOKENS, framing)
    np.testing.assert_array_equal(model.tokens[around], TOKENS[around])
    free = (np.asarray(WEIGHTS) > 0) & ~around
    assert sums["weight"] / free.sum() == pytest.approx(0.9, abs=0.03)


def test_of_each_row_one_token_is_left_out_at_least_that_may_be():
    few = {"weights": jnp.zeros((B, T)).at[:, :3].set(1).at[5].set(0)}
    sums, outputs = build(mask_fraction=0.01).evaluate(Watched(), BATCH | few)
    assert outputs["targets"][5] == 0 and sums["examples"] == B - 1
    assert outputs["targets"].sum() == sums["weight"] < 1.3 * B


def test_each_step_leaves_out_others_and_evaluation_the_same_wherever_a_row_stands():
    task, model = build(), Watched()
    given = []
    for key in (1, 2):
        task.loss_sums(model, BATCH, dropout_key=jax.random.key(key))
        given.append(model.tokens)
    assert (given[0] != given[1]).any()
    task.evaluate(model, BATCH)
    whole = model.tokens
    task.evaluate(model, {name: rows[5:9] for name, rows in BATCH.items()})
    np.testing.assert_array_equal(model.tokens, whole[5:9])
    assert (whole[5] != TOKENS[5]).any()


def test_evaluation_says_nothing_of_bytes():
    task = build()
    sums, _ = task.evaluate(Watched(), BATCH)
    metrics = task.summarize({name: float(x) for name, x in sums.items()}, 100)
    assert set(metrics) == {"examples", "loss", "perplexity", "accuracy"}
    assert metrics["perplexity"] == pytest.approx(V, rel=1e-4)
    assert metrics["examples"] == B
