"""The losses: their formulas; in chunks the same, in a fraction of the memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tasks.losses import chunk_count, cross_entropy
from tasks.registry import build
from tests.model.decoders import make_decoder

PLAIN = {"label_smoothing": 0.0, "z_loss": 0.0, "loss_chunks": 1, "devices": 1}


def test_smoothing_and_z_loss_change_what_is_minimised_and_not_the_loss():
    logits = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    targets = jnp.array([0, 1])
    nats, minimised = cross_entropy(logits, targets, label_smoothing=0.1, z_loss=0.01)
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    right = log_p[[0, 1], [0, 1]]
    normalizer = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1))
    np.testing.assert_allclose(nats, -right, rtol=1e-6)
    smoothed = -0.9 * right - 0.1 * log_p.mean(-1)
    np.testing.assert_allclose(minimised, smoothed + 0.01 * normalizer**2, rtol=1e-6)
    same = cross_entropy(logits, targets)
    assert same[0] is same[1]


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0, 0.0)], ids=["alike", "class weights"])
@pytest.mark.parametrize("extra", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}], ids=str)
def test_the_gradient_is_that_of_the_formula(weights, extra):
    logits = 4 * jax.random.normal(jax.random.key(0), (5, 3, 4))
    targets = jax.random.randint(jax.random.key(1), (5, 3), 0, 4)
    counts = jax.random.uniform(jax.random.key(2), (5, 3)).at[0].set(0)
    weights = None if weights is None else jnp.array(weights)

    def ours(logits):
        both = cross_entropy(logits, targets, class_weights=weights, **extra)
        return sum(jnp.sum(counts * one) for one in both)

    def formula(logits):
        log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
        share = extra.get("label_smoothing", 0.0)
        aim = (1 - share) * jax.nn.one_hot(targets, 4) + share / 4
        aim = aim if weights is None else aim * weights
        squares = extra.get("z_loss", 0.0) * jnp.log(jnp.sum(jnp.exp(logits), -1)) ** 2
        minimised = squares - jnp.sum(aim * log_p, -1)
        return jnp.sum(counts * (minimised - jnp.sum(jax.nn.one_hot(targets, 4) * log_p, -1)))

    (value, gradient), (expected, right) = (
        jax.value_and_grad(one)(logits) for one in (ours, formula)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, right, rtol=0, atol=1e-5)
    assert jnp.abs(gradient[1:]).max() > 0.1 and not gradient[0].any()


def batch(vocabulary_size: int, B: int, T: int) -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocabulary_size, (B, T + 1), dtype=np.int32)
    return {
        "tokens": jnp.asarray(tokens[:, :-1]),
        "targets": jnp.asarray(tokens[:, 1:]),
        "weights": jnp.asarray((random.random((B, T)) < 0.7) * random.random((B, T)), jnp.float32),
        "segments": jnp.ones((B, T), jnp.int32),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def measured(graph, settings, parameters, rows):
    """Sums and gradient of training, and all that an evaluation gives."""
    task = build("language_modeling", **dict(settings))

    def objective(parameters):
        sums = task.loss_sums(nnx.merge(graph, parameters), rows, dropout_key=None)
        return 3.0 * sums["objective"], sums

    gradient, sums = jax.grad(objective, has_aux=True)(parameters)
    return gradient, sums, task.evaluate(nnx.merge(graph, parameters), rows)


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("chunks", [4, 5])
def test_in_chunks_value_gradient_and_metrics_are_the_plain_ones(tied, chunks):
    decoder = make_decoder(
        vocabulary_size=50_257, tied_embeddings=tied, depth=1, logit_soft_cap=30.0
    )
    graph, parameters = nnx.split(decoder)
    rows = batch(50_257, 2, 12)
    settings = PLAIN | {"label_smoothing": 0.1, "z_loss": 1e-3}
    plain, chunked = (
        measured(graph, tuple((settings | {"loss_chunks": n}).items()), parameters, rows)
        for n in (1, chunks)
    )
    (gradient, *sums), (chunked_gradient, *chunked_sums) = plain, chunked
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-6), sums, chunked_sums)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(chunked_gradient), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6 * np.abs(a).max())
        assert np.abs(a).max() > 0


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_in_chunks_a_quarter_of_the_memory_or_less_is_needed(part):
    graph, parameters = nnx.split(make_decoder(vocabulary_size=50_257, depth=1))
    rows = batch(50_257, 8, 128)

    def temporary_bytes(chunks: int) -> int:
        task = build("language_modeling", **PLAIN | {"loss_chunks": chunks})

        def loss(parameters):
            return task.loss_sums(nnx.merge(graph, parameters), rows, dropout_key=None)["objective"]

        def evaluation(parameters):
            return task.evaluate(nnx.merge(graph, parameters), rows)

        run = jax.grad(loss) if part == "training" else evaluation
        return jax.jit(run).lower(parameters).compile().memory_analysis().temp_size_in_bytes

    plain, chunked = temporary_bytes(1), temporary_bytes(16)
    assert plain > 4 * 8 * 128 * 50_257
    assert chunked <= plain / 4


def test_left_to_itself_it_cuts_only_what_is_large():
    assert chunk_count((12, 64, 65), devices=1) == 1
    assert chunk_count((8, 1024, 50_257), devices=1) == 8
    assert chunk_count((8, 1024, 50_257), devices=8) == 1
    assert chunk_count((10_000, 4, 50_257), devices=1) == 4


def test_the_soft_cap_bounds_logits_also_where_a_model_generates():
    tokens = jnp.arange(6)[None]
    free, _ = make_decoder()(tokens)
    capped, _ = make_decoder(logit_soft_cap=2.0)(tokens)
    assert jnp.abs(free).max() > 2
    np.testing.assert_allclose(capped, 2 * np.tanh(free / 2), rtol=1e-5, atol=1e-6)
