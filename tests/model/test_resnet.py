"""The residual network."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.architectures import build
from tests.selection import few_of


def make_resnet(**changes):
    settings = {
        "depth": 18,
        "width": 8,
        "stem": "small",
        "squeeze_excitation": False,
        "zero_init_residual": False,
        "dropout": 0.0,
        "num_classes": 10,
        "image_shape": (8, 8, 1),
        "dtype": jnp.float32,
        "param_dtype": jnp.float32,
    }
    return build("resnet", rngs=nnx.Rngs(0), **{**settings, **changes})


@pytest.mark.parametrize("depth", few_of([18, 50], 18))
def test_with_zero_init_residual_a_block_begins_as_its_shortcut(depth):
    pictures_BHWC = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    logits = {}
    for is_zero in (True, False):
        model = make_resnet(depth=depth, zero_init_residual=is_zero)
        scales = [[float(norm.scale[...].min()) for norm in block.norms] for block in model.blocks]
        branch = len(scales[0]) - 1
        assert scales == [[1.0] * branch + [0.0 if is_zero else 1.0]] * len(scales)
        block = model.blocks[1]  # its shortcut is what comes in
        x_BHWC = jnp.ones((1, 4, 4, 8 if depth == 18 else 32))
        assert bool((block(x_BHWC, train=False) == x_BHWC).all()) == is_zero
        logits[is_zero] = model(pictures_BHWC, train=False)
        assert float(jnp.abs(logits[is_zero]).max()) > 0
    assert not np.allclose(logits[True], logits[False])
