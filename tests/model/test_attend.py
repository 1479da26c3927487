"""Attention's one entrance: every implementation gives what XLA's gives, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from configs.schema.mesh import AXES, Rules
from model.layers import attend
from model.layers.attend import AttentionMask
from model.layers.sharding import activation_sharding
from parallel.axes import activation_placement
from tests.selection import a_third_of, few_of

SEGMENTS = jnp.repeat(jnp.array([[1, 2, 3, 0], [1, 1, 1, 2]], jnp.int32), 64, axis=1)
MASKS = {
    "causal": AttentionMask(causal=True, window=None),
    "causal, window": AttentionMask(causal=True, window=100),
    "both ways": AttentionMask(causal=False, window=None),
    "both ways, window": AttentionMask(causal=False, window=100),
    "segments": AttentionMask(causal=True, window=None, segments_BT=SEGMENTS),
    "segments, window": AttentionMask(causal=True, window=50, segments_BT=SEGMENTS),
}
MESHES = {
    "one device": (1, 1, 1, 1),
    "fsdp, tensor, sequence": (1, 2, 2, 2),
}


def random(key, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(key), shape, dtype)


def on(mesh_shape):
    """A context like a training step's, on a mesh of that shape."""
    count = int(np.prod(mesh_shape))
    mesh = jax.make_mesh(
        mesh_shape, AXES, axis_types=(AxisType.Auto,) * 4, devices=jax.devices()[:count]
    )
    return activation_sharding(activation_placement(mesh, Rules().model_dump()))


def value_and_gradients(implementation, arrays, mask):
    def loss(q, k, v):
        out = attend.attend(q, k, v, mask, implementation=implementation)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    weights = random(9, *arrays[0].shape)
    gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return out, *gradients


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("mask", a_third_of(MASKS))
def test_splash_attention_equals_xlas_in_value_and_gradient(mask, mesh):
    arrays = random(0, 2, 256, 4, 16), random(1, 2, 256, 2, 16), random(2, 2, 256, 2, 16)
    with on(MESHES[mesh]):
        splash = value_and_gradients("splash", arrays, MASKS[mask])
    expected = value_and_gradients("xla", arrays, MASKS[mask])
    for name, one, other in zip(("out", "dq", "dk", "dv"), splash, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5, err_msg=name)


def test_causal_parts_of_unequal_length_are_one_sequence():
    q, k, v = random(0, 2, 131, 4, 8), random(1, 2, 131, 2, 8), random(2, 2, 131, 2, 8)
    parts = attend.attend(q, k, v, AttentionMask(causal=True, window=None), implementation="xla")
    mask = jnp.tril(jnp.ones((1, 131, 131), bool))
    np.testing.assert_allclose(parts, attend.attend_by_xla(q, k, v, mask), atol=1e-6)


@pytest.mark.parametrize("length", few_of([128, 131], 131))
@pytest.mark.parametrize("window", few_of([1, 5, 32, 40], 5))
@pytest.mark.parametrize("packed", [False, True])
def test_a_window_in_blocks_is_that_of_the_whole_mask(window, length, packed):
    arrays = [random(n, 2, length, heads, 8) for n, heads in enumerate((4, 2, 2))]
    segments = jnp.repeat(jnp.array([[1, 2, 3], [1, 1, 2]]), 50, axis=1)[:, :length]
    mask = AttentionMask(True, window, segments_BT=segments if packed else None)
    assert attend._is_local(mask, arrays[0], arrays[1])
    position = jnp.arange(length)
    seen = attend.visible(position[None], position[None], causal=True, window=window)
    if packed:
        seen = seen & (segments[:, :, None] == segments[:, None, :])

    def loss(compute):
        def weighed(*arrays):
            out = compute(*arrays)
            return jnp.sum(out * random(9, *out.shape)), out

        (_, out), gradients = jax.value_and_grad(weighed, (0, 1, 2), has_aux=True)(*arrays)
        return out, *gradients

    in_blocks = loss(lambda q, k, v: attend.attend(q, k, v, mask))
    whole = loss(lambda q, k, v: attend.attend_by_xla(q, k, v, seen))
    for one, other in zip(in_blocks, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, rtol=1e-5)
