"""Encoder-decoders as folders of Hugging Face: there and back, and what none of them has."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.errors import UsageError
from configs.reading.recipes import load_config
from interop.checking import check_recipe
from interop.converting import read_weights
from interop.families import FAMILIES, describe
from interop.family import resolved
from interop.fields import Unsupported
from tests.interop import folders, pairs
from tests.interop.test_checking import flags_of, refusal

READ = {**dict.fromkeys(pairs.VARIANTS, False), "m2m_100": True, "t5gemma untied": True}
"""Whether the layers are scanned, for each variant."""


@pytest.mark.parametrize("variant", READ)
def test_what_was_written_is_read(tmp_path, variant):
    scanned = READ[variant]
    params, of_model = pairs.make_folder(tmp_path, variant, scan_layers=scanned)
    found = read_weights(tmp_path, folders.shapes(of_model), scanned=scanned).params
    assert jax.tree.structure(found) == jax.tree.structure(params)
    # The scales of Gemma's norms have one taken away, and given back.
    close = 3e-7 if variant.startswith("t5gemma") else 0.0
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=close, rtol=0), found, params
    )


@pytest.mark.parametrize("variant", pairs.VARIANTS)
def test_the_description_has_the_settings(tmp_path, variant):
    pairs.make_folder(tmp_path, variant)
    found, given = describe(tmp_path), pairs.settings_of(variant)
    assert found.family == pairs.VARIANTS[variant][0]
    assert found.data_spec.vocabulary_size == pairs.SIZES.vocabulary_size
    given["encoder_depth"] = given["encoder_depth"] or given["depth"]
    given, theirs = resolved(given), resolved(given | found.settings)
    assert theirs == given


REFUSALS = {
    "another norm": ("pegasus", {"norm": "rms_norm"}, "norm=rms_norm: it only has layer_norm"),
    "no biases": ("marian", {"use_bias": False}, "model.use_bias=false: it only has true"),
    "an epsilon": ("pegasus", {"norm_epsilon": 1e-6}, "norm_epsilon=1e-06: it only has 1e-05"),
    "grouped heads": ("m2m_100", {"num_kv_heads": 2}, "model.num_kv_heads=2: it only has none"),
    "own tables": ("blenderbot", {"shared_embeddings": False}, "model.shared_embeddings=false"),
    "recurrence": ("t5gemma", {"encoder_pattern": "R"}, "model.encoder_pattern=R"),
    "a window": ("t5gemma", {"attention_window": 4}, "model.attention_window=4"),
    "a gate": ("pegasus", {"feed_forward": "swiglu"}, "feed_forward=swiglu: it only has gelu"),
    "no gate": ("t5gemma", {"feed_forward": "gelu"}, "model.feed_forward=gelu: it only has swiglu"),
    "odd heads": (
        "t5gemma",
        {"num_heads": 5, "head_dim": 4},
        "model.num_heads=5: it only has divisors of model.width=24",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_family_lacks_is_named(name):
    family, changes, message = REFUSALS[name]
    settings = pairs.settings_of(family, **changes)
    with pytest.raises(Unsupported) as caught:
        FAMILIES[family].configure(settings, pairs.SIZES, "target_tokens")
    assert message in str(caught.value)


def test_one_letter_for_all_layers_is_the_same_pattern():
    settings = pairs.settings_of("pegasus", pattern="AA", encoder_pattern="A")
    plain = FAMILIES["pegasus"].configure(
        pairs.settings_of("pegasus"), pairs.SIZES, "target_tokens"
    )
    assert FAMILIES["pegasus"].configure(settings, pairs.SIZES, "target_tokens") == plain


DAMAGE = {
    "a renamed weight": (
        "m2m_100",
        lambda tensors: tensors.update(
            {"model.encoder.layers.1.fz.bias": tensors.pop("model.encoder.layers.1.fc1.bias")}
        ),
        "lacks model.encoder.layers.1.fc1.bias; it has model.encoder.layers.1.fz.bias, for which",
    ),
    "a bias of the head": (
        "pegasus",
        lambda tensors: tensors.update({"final_logits_bias": np.ones((1, 19), np.float32)}),
        "final_logits_bias can't be had here: it must be zero",
    ),
    "a table of its own": (
        "marian",
        lambda tensors: tensors.update({"lm_head.weight": np.ones((19, 24), np.float32)}),
        "lm_head.weight, which is not the same as model.shared.weight",
    ),
    "a real norm behind a part": (
        "t5gemma",
        lambda tensors: tensors["model.decoder.layers.1.post_cross_attn_layernorm.weight"].fill(0),
        "model.decoder.layers.1.post_cross_attn_layernorm.weight can't be had here: it must be",
    ),
    "no norm behind a part": (
        "t5gemma",
        lambda tensors: tensors.pop("model.encoder.layers.2.post_self_attn_layernorm.weight"),
        "lacks model.encoder.layers.2.post_self_attn_layernorm.weight",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, name):
    family, change, message = DAMAGE[name]
    _, of_model = pairs.make_folder(tmp_path, family)
    folders.rewrite(tmp_path, change)
    with pytest.raises(UsageError) as caught:
        read_weights(tmp_path, folders.shapes(of_model), scanned=False)
    assert message in str(caught.value)


FIELDS = {
    "padding elsewhere": ("m2m_100", {"pad_token_id": 0}, "pad_token_id=0 can't be had"),
    "two widths": ("pegasus", {"encoder_ffn_dim": 12}, "encoder_ffn_dim=12 can't be had"),
    "no scale": ("pegasus", {"scale_embedding": False}, "scale_embedding=false can't be had"),
    "swish": ("marian", {"activation_function": "swish"}, 'activation_function="swish"'),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_none_of_ours_has_is_named(tmp_path, name):
    family, changes, message = FIELDS[name]
    pairs.make_folder(tmp_path, family)
    config = FAMILIES[family].configure(pairs.settings_of(family), pairs.SIZES, "target_tokens")
    folder = folders.write_config(tmp_path / "other", config, **changes)
    with pytest.raises(UsageError) as caught:
        describe(folder)
    assert message in str(caught.value)


def test_a_nested_field_is_named_with_its_section(tmp_path):
    config = FAMILIES["t5gemma"].configure(
        pairs.settings_of("t5gemma"), pairs.SIZES, "target_tokens"
    )
    config["decoder"]["hidden_activation"] = "gelu_pytorch_tanh"
    folder = folders.write_config(tmp_path, config)
    with pytest.raises(UsageError, match=r'decoder\.hidden_activation="gelu_pytorch_tanh" can'):
        describe(folder)


@pytest.mark.parametrize("family", ["m2m_100", "blenderbot", "t5gemma"])
def test_the_flags_of_the_refusal_are_those_that_make_a_recipe_fit(tmp_path, family):
    pairs.make_folder(tmp_path, family)
    (tmp_path / "tokenizer.json").write_text("{}")
    recipe = "configs/translation_transformer.py"
    message = refusal(tmp_path, load_config(recipe, inputs=False))
    assert "model.width is 192" in message
    assert ("data.max_source_length is 128" in message) == (family == "blenderbot")
    check_recipe(tmp_path, load_config(recipe, flags_of(message), inputs=False))


def test_positions_that_are_written_are_those_that_are_computed(tmp_path):
    from model.layers.positions import sinusoids

    pairs.make_folder(tmp_path, "pegasus")
    table = load_file(tmp_path / "model.safetensors")["model.decoder.embed_positions.weight"]
    expected = np.asarray(sinusoids(np.arange(14)[None], 24))[0]
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_the_range_of_float16_is_too_small(tmp_path):
    settings = pairs.settings_of("t5gemma")
    params = folders.draw(folders.template(settings, pairs.SIZES))
    halves = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    with pytest.raises(UsageError, match="float16 has not the range that t5gemma needs"):
        pairs.write_folder(tmp_path, "t5gemma", settings, halves)
