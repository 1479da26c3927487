"""ConvNeXt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import architectures
from model.architectures import parameter_count
from model.layers.sharding import AXES


def build(**changes) -> nnx.Module:
    settings = {
        "patch_size": 4,
        "channels": (96, 192, 384, 768),
        "depths": (3, 3, 9, 3),
        "stochastic_depth": 0.0,
        "num_classes": 1000,
        "image_shape": (224, 224, 3),
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return architectures.build("convnext", rngs=nnx.Rngs(0), **settings | changes)


SMALL = {
    "patch_size": 1,
    "channels": (8, 16),
    "depths": (1, 2),
    "num_classes": 10,
    "image_shape": (8, 8, 1),
}


def test_the_tiny_one_has_the_parameters_of_the_paper():
    assert parameter_count(nnx.eval_shape(build)) == pytest.approx(28.6e6, rel=1e-3)


def test_every_parameter_names_each_of_its_dimensions():
    for path, parameter in nnx.to_flat_state(nnx.state(build(**SMALL))):
        assert len(parameter.get_metadata()[AXES]) == parameter[...].ndim, path


def test_stochastic_depth_acts_only_with_a_key():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    convnext = build(**SMALL, stochastic_depth=0.9)
    for path, parameter in nnx.to_flat_state(nnx.state(convnext)):
        if path[-1] == "scale" and "stages" in path and "norm" not in path:
            parameter[...] = jnp.ones_like(parameter[...])
    run = jax.jit(lambda images, key: convnext(images, train=True, dropout_key=key))
    plain, dropped = run(images, None), run(images, jax.random.key(0))
    assert plain.shape == (4, 10) and plain.dtype == jnp.float32
    assert jnp.isfinite(plain).all() and plain.std() > 0
    assert not np.allclose(plain, dropped)
    np.testing.assert_allclose(plain, convnext(images, train=False), atol=1e-5)
