"""The small convolutional classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

from model.architectures import build
from model.layers.sharding import AXES


def make_cnn(**changes):
    settings = {
        "channels": (32, 64),
        "width": 128,
        "dropout": 0.0,
        "num_classes": 10,
        "image_shape": (8, 8, 1),
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return build("cnn", rngs=nnx.Rngs(0), **{**settings, **changes})


def pictures(count, shape=(8, 8, 1)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (7, 13, 3)])
def test_pictures_of_any_size_give_logits(shape):
    logits = make_cnn(image_shape=shape)(pictures(3, shape), train=False)
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)


def test_every_parameter_and_statistic_names_each_of_its_dimensions():
    for path, variable in nnx.to_flat_state(nnx.state(make_cnn())):
        assert len(variable.get_metadata()[AXES]) == variable[...].ndim, path


def test_integers_are_scaled_as_floats_between_zero_and_one():
    cnn, images = make_cnn(), pictures(2)
    np.testing.assert_allclose(
        cnn(images, train=False), cnn(images.astype(np.float32) / 255, train=False), atol=1e-6
    )


def test_evaluation_uses_running_statistics_and_leaves_them():
    cnn, images = make_cnn(), pictures(16)

    def statistics():
        return [np.asarray(x) for x in jax.tree.leaves(nnx.state(cnn, nnx.BatchStat))]

    fresh = statistics()
    alone = cnn(images[:1], train=False)
    np.testing.assert_allclose(cnn(images, train=False)[:1], alone, atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(fresh, statistics(), strict=True))
    for _ in range(100):
        trained = cnn(images, train=True)
    assert not any(np.array_equal(a, b) for a, b in zip(fresh, statistics(), strict=True))
    # The running statistics of a batch seen a hundred times are that batch's own.
    np.testing.assert_allclose(cnn(images, train=False), trained, atol=1e-2)


def test_dropout_acts_only_with_a_key():
    cnn, images = make_cnn(dropout=0.5), pictures(4)
    plain = cnn(images, train=False)
    assert not np.allclose(cnn(images, train=False, dropout_key=jax.random.key(0)), plain)


def test_batch_norm_takes_the_statistics_of_the_global_batch():
    """Eight devices, each with its share of a batch whose shares differ widely."""
    images = np.concatenate([np.full((2, 8, 8, 1), 30 * n, np.uint8) for n in range(8)])
    graph, state = nnx.split(make_cnn())

    @jax.jit
    def run(state, images):
        cnn = nnx.merge(graph, state)
        return cnn(images, train=True), nnx.state(cnn, nnx.BatchStat)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    one, eight = run(state, images), run(everywhere, sharded)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.full
def test_it_learns_the_digits():
    """Above 0.985 on a fifth of scikit-learn's digits, as a support vector machine (0.989)."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    steps, rows = 500, 64
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=0.01)
    graph, params, statistics = nnx.split(make_cnn(), nnx.Param, ...)
    moments = optimizer.init(params)

    @jax.jit
    def step(params, statistics, moments, images, labels):
        def loss(params):
            cnn = nnx.merge(graph, params, statistics, copy=True)  # Variables of this trace
            logits = cnn(images, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), nnx.state(cnn, nnx.BatchStat)

        gradients, statistics_after = jax.grad(loss, has_aux=True)(params)
        updates, moments_after = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), statistics_after, moments_after

    generator = np.random.default_rng(1)
    for _ in range(steps):
        batch = generator.choice(train, rows)
        params, statistics, moments = step(
            params, statistics, moments, images[batch], digits.target[batch]
        )
    logits = nnx.merge(graph, params, statistics)(images[test], train=False)
    assert (np.asarray(logits).argmax(-1) == digits.target[test]).mean() > 0.985
