"""A model with weights of 8-bit integers computes nearly what it did, in every family."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

import evaluate
import generate
import inference.quantization as quantization
from configs.errors import UsageError
from configs.schema.mesh import AXES
from inference.loading import load_model
from inference.quantization import find_matrices, slowdown_message, with_weights_dtype
from model.architectures import build
from model.layers.int8 import Int8Kernel, int8_product, quantize, weights_only_product
from tests.golden.workdirs import FIGURES, ROOT, WORKDIRS
from tests.model.decoders import drawn, logits_of, make_decoder
from tests.model.test_encoder_decoders import RECURRENT

MIXERS = {
    "attention": ({"tied_embeddings": True}, 15),
    "window": ({"num_kv_heads": 2, "attention_window": 5, "use_bias": True}, 16),
    "convolution": ({"pattern": "C"}, 14),
    "lstm": ({"pattern": "R", "recurrence": "lstm"}, 12),
    "gru": ({"pattern": "R", "recurrence": "gru"}, 12),
    "rg_lru": ({"pattern": "R", "recurrence": "rg_lru"}, 16),
    "scanned": ({"pattern": "RA", "depth": 4, "scan_layers": True}, 14),
    "width not a multiple of eight": ({"width": 20, "num_heads": 2}, 16),
}
TOKENS = np.random.default_rng(0).integers(0, 17, (3, 12)).astype(np.int32)


def quantized(module: nnx.Module) -> nnx.Module:
    """The module with integers in the place of all matrices, and nothing else changed."""
    copy = nnx.clone(module)
    for name, matrix in find_matrices(copy).items():
        parameter = copy
        for part in name.split("."):
            parameter = parameter[int(part)] if part.isdecimal() else getattr(parameter, part)
        parameter.set_value(matrix.quantized(parameter[...]))
    return copy


def relative_error(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def stepwise(module: nnx.Module, tokens: np.ndarray) -> jax.Array:
    """The logits, written one position at a time."""
    graph, params = nnx.split(module)

    @jax.jit
    def step(params, tokens_B1, state):
        return nnx.merge(graph, params)(tokens_B1, state=state)

    state, logits = module.initial_state(len(tokens), 16), []
    for position in range(tokens.shape[1]):
        one, state = step(params, tokens[:, position : position + 1], state)
        logits.append(one)
    return jnp.concatenate(logits, axis=1)


@pytest.mark.parametrize("name", MIXERS)
def test_decoders_compute_nearly_the_same_logits(name):
    changes, matrices = MIXERS[name]
    module = make_decoder(**changes)
    integers = quantized(module)
    assert len(find_matrices(module)) == matrices
    expected, found = logits_of(module, TOKENS), logits_of(integers, TOKENS)
    assert 1e-4 < relative_error(found, expected) < 0.1
    one_row = stepwise(integers, TOKENS[:1])
    np.testing.assert_allclose(one_row[0], found[0], atol=0.02 * np.abs(expected).max())


def test_a_recurrent_encoder_decoder_computes_nearly_the_same_logits():
    module = drawn(lambda: build("rnn_encoder_decoder", rngs=nnx.Rngs(0), **RECURRENT))
    integers = quantized(module)

    @nnx.jit
    def logits(module):
        memory = module.encode(TOKENS, segments_BS=jnp.ones_like(TOKENS))
        return module.head(module.hidden(TOKENS, memory)[0])

    assert isinstance(integers.first.context_kernel[...], Int8Kernel)
    assert 1e-4 < relative_error(logits(integers), logits(module)) < 0.1


@pytest.mark.full
def test_a_trained_mixture_keeps_its_accuracy():
    """A model that has learnt to count in steps of 1 to 3, modulo 17."""
    draw = np.random.default_rng(0)
    starts, steps = draw.integers(0, 17, (64, 1)), draw.integers(1, 4, (64, 1))
    counted = jnp.asarray((starts + steps * np.arange(12)) % 17, jnp.int32)
    module = make_decoder(initialized=True, pattern="RAC", depth=3, recurrence="rg_lru")
    graph, params = nnx.split(module)
    optimizer = optax.adam(5e-3)

    def scores(module):  # The step is known after the second number.
        logits = module(counted[:, :-1])[0][:, 1:]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, counted[:, 2:]).mean()
        return loss, jnp.mean(logits.argmax(-1) == counted[:, 2:])

    @jax.jit
    def update(params, state):
        gradient = jax.grad(lambda params: scores(nnx.merge(graph, params))[0])(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(60):
        params, state = update(params, state)
    trained = nnx.merge(graph, params)
    (loss, accuracy), (int8_loss, int8_accuracy) = map(
        nnx.jit(scores), (trained, quantized(trained))
    )
    assert accuracy > 0.98
    assert int8_accuracy >= accuracy - 0.005
    assert 0 < abs(int8_loss - loss) < 0.01


@pytest.mark.parametrize("inputs", [40, 37])
def test_a_row_alone_equals_a_row_among_others_to_the_bit(inputs):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(5, inputs)), jnp.float32)
    kernel = Int8Kernel.of(jnp.asarray(draw.normal(size=(inputs, 24)), jnp.float32), 1)
    product = jax.jit(int8_product)
    together = product(x, kernel)
    assert relative_error(together, x @ (kernel.values * kernel.scale)) < 0.02
    for row in range(5):
        np.testing.assert_array_equal(product(x[row : row + 1], kernel)[0], together[row])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_inputs_are_rounded_on_cpus_alone(platform):
    kernel = Int8Kernel.of(jnp.ones((16, 8)), 1)
    traced = jax.jit(int8_product).trace(jnp.ones((2, 16), jnp.bfloat16), kernel)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    (product,) = [line for line in program.splitlines() if "dot_general" in line]
    operands = "tensor<2x16xi8>" if platform == "cpu" else "tensor<2x16xbf16>"
    result = "tensor<2x8xi32>" if platform == "cpu" else "tensor<2x8xf32>"
    assert f"({operands}" in product and product.endswith(result)


def test_weights_alone_can_be_rounded():
    draw = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((3, 4, 5), (4, 5, 2, 6))
    )
    rounded = Int8Kernel.of(kernel, 2)
    found = weights_only_product(x, rounded.values, rounded.scale) * rounded.scale
    assert found.shape == (3, 2, 6)
    assert 1e-4 < relative_error(found, jnp.tensordot(x, kernel, 2)) < 0.01
    assert relative_error(found, int8_product(x, rounded)) < 0.02


def test_rounding_errs_by_half_a_step_and_keeps_what_is_not_finite():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50)), jnp.float32)
    values, scale = quantize(x.at[3].set(0), (1,))
    assert values.dtype == jnp.int8 and int(jnp.abs(values).max()) == 127
    assert jnp.all(jnp.abs(values * scale - x.at[3].set(0)) <= 0.5001 * scale)
    kernel = Int8Kernel.of(x.at[1, 2].set(jnp.nan), 1)
    bad = np.isnan(int8_product(jnp.ones((2, 4)), kernel))
    assert bad[:, 2].all() and not np.delete(bad, 2, axis=1).any()
    whole = Int8Kernel.of(x, 1)
    bad = np.isnan(int8_product(jnp.ones((2, 4)).at[1, 0].set(jnp.nan), whole))
    assert bad[1].all() and not bad[0].any()


def test_a_quantized_module_splits_and_merges():
    integers = quantized(make_decoder())
    graph, params = nnx.split(integers)
    leaves = jax.tree.leaves(params)
    assert sum(leaf.dtype == jnp.int8 for leaf in leaves) == MIXERS["attention"][1] + 1
    again = nnx.merge(graph, jax.tree.map(jnp.copy, params))
    np.testing.assert_array_equal(logits_of(again, TOKENS), logits_of(integers, TOKENS))


def test_a_sharded_model_answers_as_on_one_device():
    request = {"prompt": ["the", "a"], "max_tokens": 12, "temperature": 0, "logprobs": True}
    workdir = WORKDIRS / "hybrid_text"
    one = load_model(workdir, weights_dtype="int8")
    axes = {"axis_types": (AxisType.Auto,) * len(AXES), "devices": jax.devices()[:2]}
    mesh = jax.make_mesh((1, 1, 2, 1), AXES, **axes)
    two = load_model(workdir, weights_dtype="int8", mesh=mesh)
    kernel = two.module.backbone.layers[0].feed_forward.up.kernel[...]
    assert kernel.values.sharding.spec[1] == kernel.scale.sharding.spec[0] == "tensor"
    assert [answer.text for answer in one.predict(**request)] == [
        answer.text for answer in two.predict(**request)
    ]


def test_lora_pairs_are_merged_before_rounding():
    restored = load_model(WORKDIRS / "attention_text_lora").restored
    integers = with_weights_dtype(restored, "int8")
    assert "lora" in restored.params and "lora" not in integers.params
    assert integers.model_def.abstract_params.keys() == integers.params.keys()
    error = relative_error(logits_of(integers.module, TOKENS), logits_of(restored.module, TOKENS))
    assert 0 < error < 0.05


def test_bfloat16_and_float32_cast_every_parameter():
    for dtype in ("bfloat16", "float32"):
        params = load_model(WORKDIRS / "rnn_text", weights_dtype=dtype).restored.params
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}


@pytest.mark.parametrize("name", ["hybrid_text", "convolution_pictures", "attention_pictures"])
def test_evaluation_shows_what_integers_lose(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert evaluate.main([f"--workdir={WORKDIRS / name}", "--weights_dtype=int8"]) == 0
    *table, line = capsys.readouterr().out.splitlines()
    result, known = json.loads(line), json.loads(FIGURES.read_text())[name]
    assert result["weights_dtype"] == "int8"
    for metric in known.keys() - {"step", "split", "examples"} & {"loss", "accuracy"}:
        assert result[f"{metric}_float32"] == pytest.approx(known[metric], rel=1e-4)
    assert result["loss"] != result["loss_float32"]
    assert result["loss"] == pytest.approx(result["loss_float32"], rel=0.01)
    (shown,) = (row.split() for row in table if row.startswith("loss"))
    assert shown[1:3] == [f"{result['loss_float32']:.4f}", f"{result['loss']:.4f}"]


def test_another_dtype_is_refused(capsys):
    with pytest.raises(UsageError, match="choose float32, bfloat16, int8"):
        load_model(WORKDIRS / "attention_text", weights_dtype="half")
    with pytest.raises(UsageError, match="one of float32, bfloat16, int8"):
        generate.main(["--workdir=x", "--weights_dtype=fp8"])


def test_a_message_says_if_the_weights_are_slower(monkeypatch):
    restored = load_model(WORKDIRS / "recurrence_text").restored
    assert slowdown_message(restored, None, rows=1) is None
    monkeypatch.setattr(quantization, "SLOWER", 0.0)
    message = slowdown_message(restored, "int8", rows=1)
    assert message is not None and "is slower here" in message
    monkeypatch.setattr(quantization, "SLOWER", float("inf"))
    assert slowdown_message(restored, "int8", rows=1) is None
