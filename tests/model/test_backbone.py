"""Layers in a loop are the layers one by one; dropout; what every parameter says of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.layers.sharding import AXES, activation_sharding
from tests.selection import few_of

PATTERNS = [{"pattern": pattern} for pattern in ("A", "C", "R", "RA", "RRA")]


def unrolled_from_scanned(scanned, unrolled, period: int):
    """Copies the parameters: layer n of the one is layer n % period, copy n // period."""
    source = dict(nnx.to_flat_state(nnx.state(scanned)))
    copied = []
    for path, parameter in nnx.to_flat_state(nnx.state(unrolled)):
        if "layers" in path:
            at = path.index("layers") + 1
            layer = path[at]
            value = source[(*path[:at], layer % period, *path[at + 1 :])][layer // period]
        else:
            value = source[path][...]
        copied.append((path, parameter.replace(value)))
    nnx.update(unrolled, nnx.from_flat_state(copied))
    return unrolled


@pytest.mark.parametrize("changes", PATTERNS, ids=lambda changes: changes["pattern"])
def test_scanned_layers_equal_unrolled_ones(make_decoder, logits_of, changes):
    changes = {"depth": 2 * len(changes["pattern"]), "dropout": 0.2, **changes}
    scanned = make_decoder(scan_layers=True, **changes)
    unrolled = make_decoder(**changes)
    unrolled = unrolled_from_scanned(scanned, unrolled, len(changes["pattern"]))
    tokens = jax.random.randint(jax.random.key(1), (2, 7), 0, 17)
    key = jax.random.key(3)
    np.testing.assert_allclose(
        logits_of(scanned, tokens, None, key),
        logits_of(unrolled, tokens, None, key),
        atol=2e-5,
        rtol=1e-5,
    )


def test_a_depth_that_the_pattern_does_not_divide_cannot_be_scanned(make_decoder):
    with pytest.raises(ValueError, match="'RRA' divides, not 4"):
        make_decoder(pattern="RRA", depth=4, scan_layers=True)
    assert len(make_decoder(pattern="RRA", depth=4).backbone.layers) == 4


def test_scanned_copies_start_different(make_decoder):
    decoder = make_decoder(scan_layers=True, depth=3, initialized=True)
    kernel = decoder.backbone.layers[0].feed_forward.up.kernel[...]
    assert kernel.shape[0] == 3
    assert not np.allclose(kernel[0], kernel[1])


def test_dropout_acts_only_with_a_key_and_differs_by_key(make_decoder, logits_of):
    decoder = make_decoder(dropout=0.5)
    tokens = jnp.zeros((1, 5), int)
    plain = logits_of(decoder, tokens)
    np.testing.assert_array_equal(plain, logits_of(make_decoder(dropout=0.0), tokens))
    first, again, other = (logits_of(decoder, tokens, None, jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain) and not np.allclose(first, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "RA"},
        {"pattern": "RA", "scan_layers": True},
        {"positions": "learned", "norm": "layer_norm", "feed_forward": "gelu", "use_bias": True},
    ],
    ids=str,
)
def test_every_parameter_names_each_of_its_dimensions(make_decoder, changes):
    for path, parameter in nnx.to_flat_state(nnx.state(make_decoder(**changes))):
        axes = parameter.get_metadata()[AXES]
        assert len(axes) == parameter[...].ndim, (path, axes)
        assert (axes[0] == "layers") == (changes.get("scan_layers", False) and "layers" in path)
        assert len({axis for axis in axes if axis}) == len([axis for axis in axes if axis])


def test_activations_are_named_where_a_placement_is_open(make_decoder):
    seen = set()
    alone = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec())

    def placement(axes, shape):
        assert len(axes) == len(shape)
        seen.add(axes)
        return alone

    decoder = make_decoder(pattern="RA")
    with activation_sharding(placement):
        jax.eval_shape(decoder, jnp.zeros((2, 4), int))
    assert {
        ("batch", "length", "width"),
        ("batch", "length", "heads", "head_dim"),
        ("batch", None, "kv_heads", "head_dim"),
        ("batch", "length", "mlp"),
        ("length", "batch", None, "recurrent"),
        (None, None, "recurrent"),
        ("batch", "length", "vocabulary"),
    } <= seen
    count = len(seen)
    jax.eval_shape(decoder, jnp.zeros((2, 5), int))
    assert len(seen) == count


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("remat", few_of(["full", "dots", "named"], "named"))
def test_remat_changes_memory_and_neither_loss_nor_gradient(make_decoder, remat, scan):
    tokens = jax.random.randint(jax.random.key(1), (8, 64), 0, 17)
    changes = {"pattern": "RA", "depth": 4, "dropout": 0.2, "scan_layers": scan}

    def measured(remat: str):
        graph, parameters = nnx.split(make_decoder(remat=remat, **changes))

        def loss(parameters):
            decoder = nnx.merge(graph, parameters)
            logits, _ = decoder(tokens, dropout_key=jax.random.key(3))
            return jnp.sum(logits**2) / logits.size

        step = jax.jit(jax.value_and_grad(loss)).lower(parameters).compile()
        return step(parameters), step.memory_analysis().temp_size_in_bytes

    (plain, most), (again, less) = measured("none"), measured(remat)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())
    assert less < most


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("layer", few_of([0, 3], 3))
def test_stochastic_depth_drops_whole_examples_more_at_the_top(make_decoder, layer, scan):
    decoder = make_decoder(stochastic_depth=0.8, depth=4, scan_layers=scan, use_bias=True)
    graph, state = nnx.split(decoder.backbone)
    lone = []
    # Nothing adds anything but the feed-forward part of one layer, and that adds 1.
    for path, parameter in nnx.to_flat_state(state):
        value = jnp.zeros_like(parameter[...])
        if path == ("layers", 0 if scan else layer, "feed_forward", "down", "bias"):
            value = value.at[layer].set(1) if scan else value + 1
        lone.append((path, parameter.replace(value)))
    backbone = nnx.merge(graph, nnx.from_flat_state(lone))
    backbone.norm = nnx.data(None)
    x = jax.random.normal(jax.random.key(0), (4000, 2, 32))
    added = backbone(x, dropout_key=jax.random.key(1))[0] - x
    rate = 0.8 * (layer + 1) / 4
    kept = np.abs(added[:, 0, 0]) > 0.1
    assert np.mean(~kept) == pytest.approx(rate, abs=0.03)
    np.testing.assert_allclose(added, kept[:, None, None] / (1 - rate) * np.ones_like(x), atol=1e-5)
    np.testing.assert_allclose(backbone(x)[0] - x, np.ones_like(x), atol=1e-5)
