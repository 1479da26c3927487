"""Each layer against its equation, written the plain way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.layers import (
    attend,
    attention,
    convolution,
    embedding,
    feed_forward,
    norms,
    positions,
    recurrence,
)
from model.layers.numerics import Numerics

NUMERICS = Numerics(jnp.float32, jnp.float32)


def random(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_repeated_ones(kv_heads):
    q, k, v = random(0, 2, 5, 4, 8), random(1, 2, 6, kv_heads, 8), random(2, 2, 6, kv_heads, 8)
    mask = jax.random.bernoulli(jax.random.key(3), 0.7, (2, 5, 6)).at[:, :, 0].set(True)
    k_all, v_all = (jnp.repeat(x, 4 // kv_heads, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k_all) / 8**0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    expected = jnp.einsum("bnts,bsnh->btnh", weights, v_all)
    np.testing.assert_allclose(attend.attend_by_xla(q, k, v, mask), expected, atol=1e-6)


def test_keys_and_values_of_grouped_heads_are_not_repeated_in_memory():
    """256 query heads on one key/value head: a repeated key alone would be 32 MiB."""
    q, k = jnp.zeros((1, 1, 256, 64)), jnp.zeros((1, 512, 1, 64))
    compiled = jax.jit(attend.attend_by_xla, static_argnums=3).lower(q, k, k, None).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2**20


def test_visibility_by_position():
    index = jnp.arange(5)[None]

    def mask(**kind):
        return np.asarray(attend.visible(index, index, **kind)[0])

    row, column = np.indices((5, 5))
    np.testing.assert_array_equal(mask(causal=True, window=None), column <= row)
    np.testing.assert_array_equal(mask(causal=True, window=2), (column <= row) & (row - column < 2))
    np.testing.assert_array_equal(mask(causal=False, window=2), abs(row - column) < 2)
    assert attend.visible(index, index, causal=False, window=None) is None


def make_attention(**changes):
    settings = {
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "causal": False,
        "window": None,
        "rotary_base": None,
        "implementation": "xla",
        "use_bias": False,
        "residual_std": 0.02,
    }
    return attention.Attention(32, **{**settings, **changes}, numerics=NUMERICS, rngs=nnx.Rngs(0))


def test_bidirectional_attention_does_not_care_for_order_and_has_no_state():
    layer = make_attention()
    x = random(0, 1, 6, 32)
    y, state = layer(x)
    np.testing.assert_allclose(layer(x[:, ::-1])[0], y[:, ::-1], atol=1e-6)
    assert state is None
    with pytest.raises(ValueError, match="no state"):
        layer.initial_state(1, 6)


def test_bidirectional_attention_keeps_to_segments():
    layer = make_attention()
    x = random(0, 1, 6, 32)
    packed, _ = layer(x, segments_BT=np.array([[1, 1, 2, 2, 2, 2]]))
    np.testing.assert_allclose(packed[:, :2], layer(x[:, :2])[0], atol=1e-6)
    np.testing.assert_allclose(packed[:, 2:], layer(x[:, 2:])[0], atol=1e-6)


def test_rotary_scores_depend_on_distance_alone():
    q, k = random(0, 1, 1, 1, 8), random(1, 1, 1, 1, 8)

    def score(target, source):
        rotated = [
            positions.rotate(x, positions.rotary_waves(jnp.array([[at]]), 4, 100.0))
            for x, at in ((q, target), (k, source))
        ]
        return float(jnp.sum(rotated[0] * rotated[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(0, 0) == pytest.approx(float(jnp.sum(q * k)), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_rotary_waves_of_a_bound_are_those_of_the_positions():
    at = jnp.array([[0, 1, 2, 0, 1, 5], [3, 0, 1, 2, 3, 4]])
    scaling = (8.0, 1.0, 4.0, 3.0)
    for one, other in zip(
        positions.rotary_waves(at, 4, 100.0, scaling),
        positions.rotary_waves(at, 4, 100.0, scaling, below=6),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-7)


def test_segment_positions_count_within_each_run():
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 3, 4, 4, 4, 4, 4]])
    np.testing.assert_array_equal(
        positions.segment_positions(segments), [[0, 1, 2, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4]]
    )


@pytest.mark.parametrize(("half", "base"), [(8, 500.0), (32, 5e5)])
def test_stretched_rotary_frequencies_are_those_of_llama(half, base):
    factor, low, high, length = scaling = (8.0, 1.0, 4.0, 512.0)
    expected = []
    for i in range(half):
        frequency = base ** (-i / half)
        wavelength = 2 * np.pi / frequency
        if wavelength > length / low:
            frequency /= factor
        elif wavelength >= length / high:
            smooth = (length / wavelength - low) / (high - low)
            frequency = (1 - smooth) * frequency / factor + smooth * frequency
        expected.append(frequency)
    found = positions.rotary_frequencies(half, base, scaling)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    changed = found / positions.rotary_frequencies(half, base, None)
    assert changed[0] == 1 and changed[-1] == pytest.approx(1 / factor, rel=1e-5)


def test_gelu_by_tanh_is_close_to_gelu_and_not_the_same():
    x = jnp.linspace(-6, 6, 1001)
    apart = np.abs(feed_forward.gelu_tanh(x) - feed_forward.gelu(x)).max()
    assert 3e-4 < apart < 5e-4
    assert feed_forward.gelu_tanh(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_gelu_and_its_gradient_equal_the_librarys():
    x = jnp.linspace(-6, 6, 301)
    exact = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    np.testing.assert_allclose(feed_forward.gelu(x), exact(x), atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(feed_forward.gelu))(x), jax.vmap(jax.grad(exact))(x), atol=1e-6
    )
    assert feed_forward.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "kind, library", [("layer_norm", nnx.LayerNorm), ("rms_norm", nnx.RMSNorm)]
)
def test_norms_and_all_their_gradients_equal_the_librarys(kind, library, param_dtype):
    options = {"epsilon": 1e-3, "rngs": nnx.Rngs(0)}
    ours = norms.norm(kind, 24, Numerics(jnp.float32, param_dtype), use_bias=True, **options)
    theirs = library(24, dtype=jnp.float32, param_dtype=param_dtype, **options)
    nnx.update(theirs, nnx.map_state(lambda _, x: 2 * x + 0.5, nnx.state(theirs)))
    nnx.update(ours, nnx.state(theirs))
    x, weights = 3 * random(0, 2, 5, 24) + 1, random(1, 2, 5, 24)

    def value_and_gradients(norm):
        graph, state = nnx.split(norm)
        y, backward = jax.vjp(lambda state, x: nnx.merge(graph, state)(x), state, x)
        return y, *jax.tree.leaves(backward(weights))

    for one, other in zip(*map(value_and_gradients, (ours, theirs)), strict=True):
        assert one.dtype == other.dtype
        tolerance = 1e-5 if one.dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(
            one.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_heads_gradients_are_those_of_the_plain_product(dtype):
    table = embedding.TokenEmbedding(37, 16, Numerics(dtype, "float32"), nnx.Rngs(0), tied=True)
    random = np.random.default_rng(0)
    x_BTD = jnp.asarray(random.normal(size=(2, 5, 16)), dtype)
    towards_BTV = jnp.asarray(random.normal(size=(2, 5, 37)), jnp.float32)

    def plain(x_BTD, kernel_VD):
        kernel_VD = kernel_VD.astype(dtype)
        return jnp.einsum("BTD,VD->BTV", x_BTD, kernel_VD, preferred_element_type=jnp.float32)

    graph, state = nnx.split(table)

    def ours(x_BTD, kernel_VD):
        return nnx.merge(graph, jax.tree.map(lambda _: kernel_VD, state)).decode(x_BTD)

    def gradients(decode):
        logits_BTV, backward = jax.vjp(decode, x_BTD, kernel_VD)
        return logits_BTV, *backward(towards_BTV)

    kernel_VD = jnp.asarray(random.normal(size=(37, 16)), jnp.float32)
    for found, expected in zip(gradients(ours), gradients(plain), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_max_pool_and_its_gradient_equal_the_librarys(size):
    x = random(0, 2, *size, 3)
    pool = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")  # noqa: E731
    (one, backward), (other, library) = jax.vjp(convolution.max_pool, x), jax.vjp(pool, x)
    np.testing.assert_array_equal(one, other)
    gradient = random(1, *one.shape)
    np.testing.assert_array_equal(backward(gradient)[0], library(gradient)[0])


def test_feed_forward_widths_cost_alike():
    assert feed_forward.feed_forward_width("gelu", 384) == 1536
    assert feed_forward.feed_forward_width("swiglu", 384) == 1024
    assert feed_forward.feed_forward_width("swiglu", 128) == 344


def plain_lstm(layer, x):
    """The equations of the docstring, position by position."""
    W, R, b = layer.input_kernel[...], layer.recurrent_kernel[...], layer.bias[...]
    h = c = jnp.zeros((x.shape[0], layer.units))
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ W[:, n] + h @ R[:, n] + b[n] for n in range(4))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        outputs.append(h)
    return jnp.stack(outputs, 1), {"hidden": h, "cell": c}


def test_lstm_and_all_its_gradients_equal_the_equations():
    layer = recurrence.Recurrence("lstm", 6, 5, numerics=NUMERICS, rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(layer)
    x = random(0, 3, 7, 6)

    def total(run):
        def function(parameters, x):
            y, state = run(nnx.merge(graph, parameters), x)
            weights = random(1, *y.shape)
            return jnp.sum(y * weights) + jnp.sum(state["cell"] ** 2) + jnp.sum(state["hidden"])

        return function

    def ours(layer, x):
        return layer(x, state=layer.initial_state(3, 7))

    np.testing.assert_allclose(layer(x)[0], plain_lstm(layer, x)[0], atol=1e-6)
    expected = jax.jit(jax.grad(total(plain_lstm), argnums=(0, 1)))(parameters, x)
    actual = jax.jit(jax.grad(total(ours), argnums=(0, 1)))(parameters, x)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", recurrence.CELLS)
def test_recurrence_hands_its_gradient_through_the_state(kind):
    """In float64: states of an Elman network with ReLU grow, and with them float32's rounding."""
    with jax.enable_x64(True):
        numerics = Numerics(jnp.float64, jnp.float64)
        layer = recurrence.Recurrence(kind, 4, 4, numerics, nnx.Rngs(0))
        x = random(0, 2, 6, 4)

        def cut(x, at):
            state = layer.initial_state(2, 6)
            first, state = layer(x[:, :at], state=state)
            second, _ = layer(x[:, at:], state=state)
            return jnp.sum(jnp.concatenate([first, second], 1) ** 3)

        whole = jax.jit(jax.grad(lambda x: jnp.sum(layer(x)[0] ** 3)))(x)
        in_two = jax.jit(jax.grad(lambda x: cut(x, 2)))(x)
        assert in_two.dtype == jnp.float64
        np.testing.assert_allclose(in_two, whole, atol=1e-6)
