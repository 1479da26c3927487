"""A recipe beside a folder: what the folder needs, what differs, and what can't be had."""

import re

import pytest

import interop
from configs import UsageError, base, load_config
from tests.interop import folders

RECIPES = {
    "gpt2": "base.language_modeling()",
    "llama": "base.language_modeling()",
    "bert": "base.language_modeling(architecture='encoder', task='masked_language_modeling')",
    "vit": "base.image_classification(architecture='vit')",
}


def settings_of(config):
    return config.model.model_dump()


@pytest.mark.parametrize("family", RECIPES)
def test_the_flags_of_the_refusal_are_those_that_make_a_recipe_fit(tmp_path, family):
    folder, _ = folders.make_folder(tmp_path / "folder", family)
    recipe, sizes = tmp_path / "recipe.py", interop.describe(folder).sizes
    recipe.write_text(
        f"from configs import base\ndef get_config():\n    return {RECIPES[family]}\n"
    )
    with pytest.raises(UsageError) as refusal:
        interop.check(folder, settings_of(load_config(recipe)), sizes)
    message = str(refusal.value)
    assert f"{folder} holds a {family}" in message and "model.width is 128" in message
    flags = dict(re.findall(r"--config\.([\w.]+)=(\S+)", message))
    assert flags["model.width"] == "24"
    config = load_config(recipe, flags)
    interop.check(folder, settings_of(config), sizes)
    assert settings_of(config) | interop.describe(folder).settings == settings_of(config)


def test_another_architecture_is_told_with_all_it_needs(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "bert")
    settings = dict(base.section("model", "rnn"))
    with pytest.raises(
        UsageError, match=r"architecture is rnn, .*architecture=encoder.*norm_placement=post"
    ):
        interop.check(folder, settings, {"vocabulary_size": 19})


def test_defaults_written_out_do_not_differ(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "gpt2")
    found = interop.describe(folder)
    settings = dict(base.section("model", "decoder")) | found.settings
    written = {"feed_forward_width": 96, "num_kv_heads": 2, "head_dim": 12, "pattern": "AA"}
    free = {"dropout": 0.1, "scan_layers": True, "remat": "full", "attention": "xla"}
    interop.check(folder, settings | written | free, found.sizes)
    with pytest.raises(UsageError, match=r"model\.attention_window is 4; .*window=none$"):
        interop.check(folder, settings | {"attention_window": 4}, found.sizes)


def test_what_reads_tokens_out_is_free_for_a_classifier(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "bert")
    found = interop.describe(folder)
    settings = dict(base.section("model", "encoder")) | found.settings
    of_classes = settings | {"head_transform": False, "tied_embeddings": False, "pooling": "max"}
    sizes = found.sizes | {"num_classes": 3}
    interop.check(folder, of_classes, sizes, body_only=True)
    with pytest.raises(UsageError, match="head_transform is false"):
        interop.check(folder, of_classes, found.sizes)


SIZES = {
    "tokens": (
        "gpt2",
        {"vocabulary_size": 18},
        r"19 tokens.*18.*tokenizer\.path=.*tokenizer\.json",
    ),
    "positions": ("bert", {"max_length": 17}, r"16 positions.*17.*data\.sequence_length=16"),
    "pictures": ("vit", {"image_shape": (8, 8, 1)}, r"8 x 8 x 3.*8 x 8 x 1.*data\.channels=3"),
    "classes": ("vit", {"num_classes": 7}, r"5 classes, but the data has 7"),
}


@pytest.mark.parametrize("name", SIZES)
def test_data_of_other_sizes_is_told_what_to_set(tmp_path, name):
    family, changes, message = SIZES[name]
    folder, _ = folders.make_folder(tmp_path, family)
    found = interop.describe(folder)
    settings = dict(base.section("model", found.settings["architecture"])) | found.settings
    with pytest.raises(UsageError, match=message):
        interop.check(folder, settings, found.sizes | changes)


def test_more_tokens_and_fewer_positions_fit(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "bert")
    found = interop.describe(folder)
    settings = dict(base.section("model", "encoder")) | found.settings
    interop.check(folder, settings, {"vocabulary_size": 21, "max_length": 5})


BEYOND = {
    "family": ("gpt2", {"model_type": "t5"}, "model_type=t5 is no family.*gpt2, llama, bert, vit"),
    "quantized": ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
    "activation": ("gpt2", {"activation_function": "swish"}, "activation_function=.*must be .gelu"),
    "scores by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "inverse_layer_idx=true",
    ),
    "cross-attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention=true"),
    "some biases": ("llama", {"attention_bias": True}, "mlp_bias=.*as attention_bias says"),
    "another gate": ("llama", {"hidden_act": "gelu"}, "hidden_act=.*must be .silu"),
    "stretched": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling="),
    "stretched by halves": ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "it lacks factor"),
    "relative positions": (
        "bert",
        {"position_embedding_type": "relative_key"},
        "must be .absolute",
    ),
    "a decoder": ("bert", {"is_decoder": True}, "is_decoder=true can't be had here"),
    "biases of some": ("vit", {"qkv_bias": False}, "qkv_bias=false can't be had"),
    "oblong patches": ("vit", {"patch_size": [4, 2]}, "patches are as high as wide"),
    "no width": ("vit", {"hidden_size": None}, "hidden_size=null is not an integer >= 1"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_field_that_cannot_be_had_is_named_with_its_file(tmp_path, name):
    family, changes, message = BEYOND[name]
    folder = folders.write_config(tmp_path, folders.FAMILIES[family], **changes)
    with pytest.raises(UsageError, match=f"config.json.*{message}"):
        interop.describe(folder)


def test_a_field_that_is_missing_is_named(tmp_path):
    config = {name: folders.LLAMA[name] for name in folders.LLAMA if name != "hidden_size"}
    with pytest.raises(UsageError, match=r"config\.json is damaged: it has no hidden_size"):
        interop.describe(folders.write_config(tmp_path, config))


def test_pictures_of_another_normalisation_are_refused(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "vit")
    seen = tmp_path / "preprocessor_config.json"
    seen.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    interop.describe(folder)
    seen.write_text('{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.5, 0.5, 0.5]}')
    with pytest.raises(UsageError, match=r"preprocessor_config\.json: image_mean=\[0\.485"):
        interop.describe(folder)


@pytest.mark.parametrize(
    "written",
    [
        {"rope_theta": 7e4, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
        {"rope_parameters": {"rope_theta": 7e4, "rope_type": "llama3", "factor": 8}},
        {"rope_theta": 7e4, "rope_scaling": {"type": "llama3", "factor": 8}},
    ],
    ids=["beside each other", "together", "an old name"],
)
def test_rotary_positions_are_read_as_any_version_writes_them(tmp_path, written):
    section = next(one for one in written.values() if isinstance(one, dict))
    section |= {"low_freq_factor": 1, "high_freq_factor": 4}
    section |= {"original_max_position_embeddings": 8192}
    config = {name: folders.LLAMA[name] for name in folders.LLAMA if name != "rope_theta"}
    settings = interop.describe(folders.write_config(tmp_path, config, **written)).settings
    assert settings["rotary_base"] == 70000.0
    assert settings["rotary_scaling"] == (8.0, 1.0, 4.0, 8192.0)
