"""Initial values, parameter counts, precision, and what does not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.architectures import build, parameter_count


def parameters_of(decoder) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, path)): np.asarray(parameter[...])
        for path, parameter in nnx.to_flat_state(nnx.state(decoder, nnx.Param))
    }


@pytest.mark.parametrize("scan_layers", [False, True])
def test_initial_values_are_those_of_the_table(make_decoder, scan_layers):
    width, depth = 128, 6
    decoder = make_decoder(
        width=width,
        depth=depth,
        pattern="RA",
        scan_layers=scan_layers,
        positions="learned",
        norm="layer_norm",
        use_bias=True,
        vocabulary_size=500,
        initialized=True,
    )
    seen = set()
    for name, values in parameters_of(decoder).items():
        kind = name.split(".")[-2] + "." + name.split(".")[-1]
        seen.add(kind)
        if kind == "mixer.bias":
            forget = values[..., 1, :]
            assert (forget == 1).all() and values.sum() == forget.size
        elif name.endswith("bias"):
            assert (values == 0).all(), name
        elif name.endswith("scale"):
            assert (values == 1).all(), name
        elif kind == "mixer.recurrent_kernel":
            rows = values.reshape(-1, width, 4 * width)[0]
            np.testing.assert_allclose(rows @ rows.T, np.eye(width), atol=1e-5)
        else:
            std = {
                "out.kernel": 0.02 / (2 * depth) ** 0.5,
                "down.kernel": 0.02 / (2 * depth) ** 0.5,
                "mixer.input_kernel": width**-0.5,
            }.get(kind, 0.02)
            assert abs(values.mean()) < 5 * std / values.size**0.5, name
            assert values.std() == pytest.approx(std, rel=0.05), name
    assert {"out.kernel", "down.kernel", "mixer.input_kernel", "tokens.embedding"} <= seen
    assert {"table.embedding", "head.kernel", "mixer.recurrent_kernel", "mixer.bias"} <= seen


def test_a_fresh_model_predicts_nearly_uniformly(make_decoder, logits_of):
    decoder = make_decoder(initialized=True, width=128, depth=4)
    tokens = jax.random.randint(jax.random.key(0), (4, 32), 0, 17)
    logits = logits_of(decoder, tokens)
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1).mean()
    assert float(loss) == pytest.approx(np.log(17), abs=0.2)


def test_the_small_decoder_has_the_size_of_nanogpts(make_decoder):
    """nanoGPT's character model of 4 layers and width 128 reports 0.80 M parameters."""
    shape = {"width": 128, "depth": 4, "vocabulary_size": 65}
    llama = make_decoder(**shape)
    assert parameter_count(llama) == pytest.approx(0.80e6, rel=0.02)
    gpt = make_decoder(
        **shape,
        feed_forward="gelu",
        norm="layer_norm",
        tied_embeddings=True,
        positions="learned",
    )
    assert parameter_count(gpt) == pytest.approx(0.80e6, rel=0.02)


def test_parameters_are_counted_without_being_made(make_decoder):
    abstract = nnx.eval_shape(lambda: make_decoder(initialized=True))
    assert parameter_count(abstract) == parameter_count(make_decoder(initialized=True))


@pytest.mark.parametrize(("pattern", "tied"), [("A", False), ("R", True)])
def test_bfloat16_computes_near_float32_and_reads_out_float32(
    make_decoder, logits_of, pattern, tied
):
    changes = {"pattern": pattern, "tied_embeddings": tied}
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, 17)
    decoder = make_decoder(**changes, dtype=jnp.bfloat16)
    graph, parameters = nnx.split(decoder)
    hidden, _ = jax.eval_shape(decoder.hidden, tokens)
    assert hidden.dtype == jnp.bfloat16

    @partial(jax.value_and_grad, has_aux=True)
    def run(parameters):
        logits, _ = nnx.merge(graph, parameters)(tokens)
        return logits.std(), logits

    (_, logits), gradients = jax.jit(run)(parameters)
    assert logits.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(gradients))
    assert all(jnp.isfinite(x).all() and x.any() for x in jax.tree.leaves(gradients))
    exact = logits_of(make_decoder(**changes), tokens)
    assert float(jnp.std(logits - exact)) < 0.03 * float(exact.std())


def test_hidden_and_head_are_the_call_in_two_parts(make_decoder, logits_of):
    decoder = make_decoder()
    tokens = jax.random.randint(jax.random.key(0), (2, 5), 0, 17)
    parts = jax.jit(lambda tokens: decoder.head(decoder.hidden(tokens)[0]))(tokens)
    np.testing.assert_allclose(parts, logits_of(decoder, tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "no multiple of num_kv_heads 3"),
        ({"head_dim": 7}, "even head_dim"),
        ({"positions": "sinusoidal"}, "choose 'rotary'"),
        ({"norm": "batch_norm"}, "choose 'layer_norm'"),
        ({"feed_forward": "tanh"}, "choose 'gelu'"),
        ({"pattern": "AX"}, "no mixer 'X'"),
        ({"pattern": "R", "recurrence": "rnn"}, "recurrence 'rnn': choose from"),
        ({"norm_placement": "after"}, "choose 'pre' or 'post'"),
    ],
)
def test_what_does_not_fit_is_said(make_decoder, changes, message):
    with pytest.raises(ValueError, match=message):
        make_decoder(**changes)


def test_an_unknown_architecture_names_those_there_are():
    with pytest.raises(ValueError, match=r"choose from \['cnn', "):
        build("decoders", rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
