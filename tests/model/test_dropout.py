"""What dropout zeroes, and how it scales the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layers.dropout import apply_dropout

KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97])
def test_each_element_is_zeroed_with_the_rate_and_the_mean_stays(rate):
    x = jnp.ones((400, 250))
    y = np.asarray(apply_dropout(x, rate, KEY))
    (scale,) = np.unique(y[y > 0])
    assert scale == pytest.approx(1 / (1 - rate), rel=1e-3)
    deviation = (rate * (1 - rate) / x.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * deviation
    # Neighbours share a word of random bits, and no more than that.
    for axis in (0, 1):
        neighbours = np.corrcoef((y == 0).ravel(), np.roll(y == 0, 1, axis).ravel())[0, 1]
        assert abs(neighbours) < 0.02


@pytest.mark.parametrize("shape", [(7, 5), (3, 1), (4, 0), (6,)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_any_shape_keeps_its_dtype(shape, dtype):
    y = apply_dropout(jnp.ones(shape, dtype), 0.5, KEY)
    assert (y.shape, y.dtype) == (shape, dtype)
    assert set(np.unique(np.float32(y))) <= {0.0, 2.0}


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_the_ends_of_the_range(rate, expected):
    assert (apply_dropout(jnp.ones((64, 64)), rate, KEY) == expected).all()


def test_nothing_is_zeroed_without_a_key():
    x = jnp.ones((4, 4))
    assert apply_dropout(x, 0.5, None) is x


@pytest.mark.parametrize("spec", [("data", None), (None, "data")])
def test_eight_devices_zero_what_one_does(spec):
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), axis_types=kinds)
    x = jnp.ones((16, 32))
    drop = jax.jit(lambda x: apply_dropout(x, 0.3, KEY))
    spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    np.testing.assert_array_equal(drop(spread), drop(x))
