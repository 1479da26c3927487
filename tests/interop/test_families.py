"""Each family as one table in both directions: config.json and weights there and back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from interop.converting import read_weights, to_tensors
from interop.families import FAMILIES, describe
from interop.family import resolved
from interop.fields import Unsupported
from interop.formats import huggingface
from tests.interop import folders
from tests.selection import a_third_of

WINDOWS = {"use_sliding_window": True, "sliding_window": 4}
CASES = {name: {} for name in folders.FAMILIES} | {
    "llama with biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "llama stretched": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    "llama with large heads": {"head_dim": 10},
    "mistral of all heads": {"num_key_value_heads": 4, "sliding_window": None},
    "ministral by types": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen2 with windows": WINDOWS | {"max_window_layers": 2},
    "qwen2 by types": WINDOWS
    | {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "qwen3 with windows": WINDOWS | {"max_window_layers": 0},
    "gpt2 with gelu": {"activation_function": "gelu", "n_inner": 40, "tie_word_embeddings": False},
    "bert of classes": {"hidden_act": "gelu_new", "num_classes": 3},
    "vit of grey oblongs": {"num_channels": 1, "image_size": [8, 12]},
}


def make(tmp_path, name):
    family = name.partition(" ")[0]
    return family, *folders.make_folder(tmp_path, family, **CASES[name])


def output_of(family: str, data_spec: DataSpec) -> str:
    if data_spec.num_classes is not None:
        return "classes"
    return "missing_tokens" if family in ("bert", "eurobert") else "next_tokens"


@pytest.mark.parametrize("name", a_third_of(one for one in CASES if one != "mistral of all heads"))
def test_a_description_is_written_as_the_config_that_it_came_from(tmp_path, name):
    family, folder, _ = make(tmp_path, name)
    found = describe(folder)
    written = FAMILIES[family].configure(
        found.settings, found.data_spec, output_of(family, found.data_spec)
    )
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written))
    again = describe(folder)
    assert resolved(again.settings) == resolved(found.settings)
    assert again.data_spec == found.data_spec and again.family == family
    ignored = {("max_window_layers",)} if "layer_types" in given else set()
    rotary = given.pop("rope_scaling", None)
    assert written.get("rope_scaling") == rotary
    written, given = flatten_dict(written), flatten_dict(given)
    assert {key: written.get(key, given[key]) for key in given.keys() - ignored} == {
        key: given[key] for key in given.keys() - ignored
    }


@pytest.mark.parametrize("name", a_third_of(CASES))
@pytest.mark.parametrize("scanned", [False, True], ids=["", "scanned"])
def test_weights_come_back_to_the_last_bit(tmp_path, name, scanned):
    family, folder, params = make(tmp_path, name)
    found = describe(folder)
    if scanned and len(found.settings.get("pattern", "no period")) > 1:
        pytest.skip("periods of one layer")
    how = {"scan_layers": True} if scanned else {}
    template = folders.template(found.settings, found.data_spec, **how)
    shapes = (folders.shapes(template), folders.statistics(template))
    weights = read_weights(folder, *shapes, scanned=scanned)
    read, measured = weights.params, weights.statistics
    if not scanned:
        folders.assert_same(read, params)
    again = to_tensors(family, read, measured, scanned=scanned)
    theirs = to_tensors(family, params, measured, scanned=False)
    assert again.keys() == theirs.keys()
    assert all(np.array_equal(again[key], theirs[key]) for key in theirs)


REFUSED = {
    "recurrence": (
        {"model.pattern": "RRA"},
        "model.pattern=RRA: transformers has no recurrent blocks",
    ),
    "convolution": ({"model.pattern": "CA"}, "has no blocks of short convolutions"),
    "another architecture": ({"model.architecture": "rnn"}, "model.architecture=rnn: transformers"),
    "soft caps": (
        {"model.logit_soft_cap": "30"},
        "model.logit_soft_cap=30.0: it only has none (the nearest family is llama)",
    ),
    "norms of another kind": (
        {"model.norm": "layer_norm"},
        "model.norm=layer_norm: it only has rms_norm (the nearest family is llama)",
    ),
    "nearly GPT-2": (
        {
            "model.positions": "learned",
            "model.feed_forward": "gelu",
            "model.use_bias": "true",
        },
        "model.norm=rms_norm: it only has layer_norm (the nearest family is gpt2)",
    ),
    "both biases and norms": (
        {"model.qkv_bias": "true", "model.qk_norm": "true"},
        "model.qk_norm=true: it only has false (the nearest family is qwen2)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_no_family_has_is_named(name):
    fields, message = REFUSED[name]
    config = load_config("configs/python_stdlib.py", fields, inputs=False)
    reason = huggingface.obstacle(config, DataSpec(vocabulary_size=50, max_length=128))
    assert reason is not None and message in reason and "\n" not in reason


def test_heads_that_no_family_has_are_named():
    config = load_config("configs/text_classification.py", {}, inputs=False)
    sizes = DataSpec(vocabulary_size=50, max_length=128, num_classes=2, classes=("a", "b"))
    decoder = load_config(
        "configs/text_classification.py", {"model.architecture": "decoder"}, inputs=False
    )
    assert "can only be written as LlamaForCausalLM, Mistral" in str(
        huggingface.obstacle(decoder, sizes)
    )
    assert "(the nearest family is bert)" in str(huggingface.obstacle(config, sizes))


PICTURES = {
    "siglip": {},
    "vit": {"model.pooling": "class_token"},
    "siglip without positions": {"model.positions": "none"},
    "none, by attention": {"model.pooling": "attention"},
    "none, without biases": {"model.use_bias": "false"},
}


@pytest.mark.parametrize("name", PICTURES)
def test_vision_transformers_of_every_position_are_written(name):
    config = load_config("configs/digits_vit.py", PICTURES[name], inputs=False)
    sizes = DataSpec(num_classes=2, image_shape=(8, 8, 1))
    if name.startswith("none"):
        assert "the nearest family is siglip" in str(huggingface.obstacle(config, sizes))
    else:
        assert huggingface.counterpart(config, sizes).family.name == name.split()[0]


CHOSEN = {
    "llama": {},
    "mistral": {"model.attention_window": "32"},
    "ministral": {"model.attention_window": "32", "model.pattern": "AAAG"},
    "qwen2": {"model.qkv_bias": "true"},
    "qwen2 with windows": {
        "model.qkv_bias": "true",
        "model.pattern": "GGAA",
        "model.attention_window": "32",
    },
    "qwen3": {"model.qk_norm": "true", "model.head_dim": "64"},
    "gpt2": {
        "model.positions": "learned",
        "model.norm": "layer_norm",
        "model.feed_forward": "gelu",
        "model.use_bias": "true",
        "model.tied_embeddings": "true",
    },
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_first_family_that_has_all_settings_is_taken(name):
    config = load_config("configs/python_stdlib.py", CHOSEN[name], inputs=False)
    sizes = DataSpec(vocabulary_size=50, max_length=128)
    found = huggingface.counterpart(config, sizes)
    assert found.family.name == name.partition(" ")[0]
    length = "n_positions" if name == "gpt2" else "max_position_embeddings"
    assert found.fields[length] == 128 and found.fields["vocab_size"] == 50


def test_a_masked_model_has_a_token_more_than_its_tokenizer():
    shape = {
        "norm": "layer_norm",
        "norm_placement": "post",
        "positions": "learned",
        "feed_forward": "gelu",
        "use_bias": "true",
        "embedding_norm": "true",
        "head_transform": "true",
        "token_types": "2",
    }
    fields = {f"model.{name}": value for name, value in shape.items()}
    config = load_config("configs/masked_language_model.py", fields, inputs=False)
    found = huggingface.counterpart(config, DataSpec(vocabulary_size=50, max_length=128))
    assert found.family.name == "bert" and found.fields["vocab_size"] == 51


def test_a_weight_without_a_row_is_named(tmp_path):
    _, params = folders.make_folder(tmp_path, "qwen3")
    with pytest.raises(UsageError, match=r"llama has nothing like .*mixer\.\w+_norm\.scale"):
        to_tensors("llama", params, scanned=False)


def test_every_reason_is_told():
    found = FAMILIES["vit"]
    settings = {"width": 8, "depth": 1, "num_heads": 2, "norm_epsilon": 1e-5, "patch_size": 4}
    settings |= {"feed_forward": "gelu", "norm": "rms_norm", "pooling": "mean"}
    sizes = replace(DataSpec(image_shape=(8, 8, 3)), num_classes=2)
    with pytest.raises(Unsupported) as caught:
        found.configure(settings, sizes, "classes")
    assert [one.partition(":")[0] for one in caught.value.args] == [
        "model.pooling=mean",
        "model.norm=rms_norm",
    ]
