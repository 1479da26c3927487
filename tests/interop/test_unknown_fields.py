"""Fields that no table of a family reads: those that may change a number are refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UsageError
from configs.reading.inputs import check_pretrained
from configs.reading.recipes import load_config
from interop.checking import check_recipe
from interop.families import describe
from interop.loading import load_weights
from tests.golden.workdirs import WORKDIRS
from tests.interop import folders, pairs
from tests.interop.foreign import write_tokenizer

RECIPE = "from configs import base\ndef get_config():\n    return base.language_modeling()\n"

UNKNOWN: dict[str, tuple[str, dict[str, Any], str]] = {
    "a scale": ("llama", {"logit_scale": 0.5}, "logit_scale"),
    "several": ("mistral", {"attention_multiplier": 2, "residual_scale": [1]}, "attention_mul"),
    "zero": ("qwen3", {"router_bias": 0}, "router_bias"),
    "biases that the family has not": ("mistral", {"attention_bias": True}, "attention_bias"),
    "a window that the family has not": ("llama", {"sliding_window": 4096}, "sliding_window"),
    "in a section": (
        "siglip",
        {"vision_config": folders.SIGLIP["vision_config"] | {"num_registers": 4}},
        "vision_config.num_registers",
    ),
    "heads that were cut": ("bert", {"pruned_heads": {"1": [0]}}, "pruned_heads"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_field_is_refused_by_name(tmp_path, name):
    family, changes, field = UNKNOWN[name]
    folder = folders.write_config(tmp_path, folders.FAMILIES[family], **changes)
    message = rf"config\.json: {re.escape(field)}.*=.*\.ignore_fields={re.escape(field)}"
    with pytest.raises(UsageError, match=message):
        describe(folder)


@pytest.mark.parametrize("value", [None, False, {}, [], ""])
def test_an_unknown_field_that_says_nothing_is_passed_over(tmp_path, value):
    plain = describe(folders.write_config(tmp_path / "plain", folders.LLAMA))
    folder = folders.write_config(tmp_path / "more", folders.LLAMA, logit_scale=value)
    assert describe(folder) == plain


TOKENS = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None}
PUBLISHED = {
    "llama": TOKENS
    | {
        "_name_or_path": "a/b",
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0",
        "unsloth_version": "2025.1",
        "use_cache": True,
    },
    "qwen2": {"sliding_window": 32768, "use_sliding_window": False, "use_mrope": False},
    "gpt2": {
        "n_ctx": 16,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "hidden_size": 24,
        "num_attention_heads": 2,
    },
    "bert": {
        "id2label": {"0": "a"},
        "label2id": {"a": 0},
        "hidden_dropout_prob": 0.1,
        "pooler_type": "first_token_transform",
        "problem_type": "single_label_classification",
        "tie_word_embeddings": True,
    },
    "vit": {"encoder_stride": 16, "pooler_act": "tanh", "qkv_bias": True},
    "siglip": {"text_config": {"hidden_size": 9, "projection_size": 9}, "initializer_factor": 1.0},
    "resnet": {"out_features": ["stage4"], "stage_names": ["stem", "stage1"]},
    "convnextv2": {"drop_path_rate": 0.1, "layer_scale_init_value": 1e-6, "num_hidden_layers": 2},
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_fields_that_change_no_number_are_passed_over(tmp_path, family):
    plain = describe(folders.write_config(tmp_path / "plain", folders.FAMILIES[family]))
    more = folders.write_config(tmp_path / "more", folders.FAMILIES[family], **PUBLISHED[family])
    assert describe(more) == plain


def test_fields_of_old_encoder_decoders_are_passed_over(tmp_path):
    pairs.make_folder(tmp_path, "marian")
    plain, file = describe(tmp_path), tmp_path / "config.json"
    config = json.loads(file.read_text())
    old = {"num_hidden_layers": config["encoder_layers"], "static_position_embeddings": True}
    old |= {"bad_words_ids": [[1]], "num_beams": 6, "max_length": 512, "normalize_before": True}
    old |= {"decoder_vocab_size": config["vocab_size"]}
    file.write_text(json.dumps(config | old))
    assert describe(tmp_path) == plain
    for name in ("num_hidden_layers", "decoder_vocab_size"):
        file.write_text(json.dumps(config | {name: 7}))
        with pytest.raises(UsageError, match=rf"config\.json: {name}=7 can't be had here"):
            describe(tmp_path)


def test_a_second_name_must_say_the_same(tmp_path):
    folder = folders.write_config(tmp_path, folders.GPT2, num_attention_heads=4)
    with pytest.raises(UsageError, match=r"num_attention_heads=4 .* another name of n_head"):
        describe(folder)


def test_several_labels_for_one_text_are_refused(tmp_path):
    folder = folders.write_config(tmp_path, folders.BERT, problem_type="multi_label_classification")
    with pytest.raises(UsageError, match=r"problem_type=.* can't be had here"):
        describe(folder)


def fitting(tmp_path: Path, **changes: Any) -> tuple[Path, Any]:
    """A folder with changes in its config.json, and a function that loads a recipe for the plain
    one, given further fields."""
    size = write_tokenizer(tmp_path / "model", "llama3")
    folder, _ = folders.make_folder(tmp_path / "model", "llama", vocab_size=size)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    with pytest.raises(UsageError) as caught:
        check_recipe(folder, load_config(recipe, {}, inputs=False))
    flags = dict(re.findall(r"--config\.([\w.]+)=(\S+)", str(caught.value)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder, lambda **more: load_config(recipe, flags | more, inputs=False)


def test_ignored_fields_count_as_missing_and_the_run_says_so(tmp_path):
    folder, recipe = fitting(
        tmp_path, logit_scale=0.5, rope_parameters={"rope_type": "default", "mrope": 1}
    )
    with pytest.raises(UsageError, match="rope_parameters="):
        check_recipe(folder, recipe())
    names = {"train.ignore_fields": "logit_scale,rope_parameters.mrope"}
    config = recipe(**names)
    check_recipe(folder, config)
    found = describe(folder, config.train.ignore_fields)
    shapes = folders.shapes(folders.template(found.settings, found.data_spec))
    messages = load_weights(folder, config, found.data_spec, shapes).messages
    for name in config.train.ignore_fields:
        assert any(one.startswith(f"{name} of {folder}/config.json") for one in messages)


def test_a_name_that_no_file_has_is_refused(tmp_path):
    folder, recipe = fitting(tmp_path)
    config = recipe(**{"train.ignore_fields": "logit_scal"})
    with pytest.raises(UsageError, match="ignore_fields has logit_scal, which neither config"):
        check_recipe(folder, config)


@pytest.mark.parametrize(
    "origin", ["none", str(WORKDIRS / "attention_text")], ids=["none", "workdir"]
)
def test_fields_are_ignored_of_folders_of_hugging_face_alone(tmp_path, origin):
    (tmp_path / "recipe.py").write_text(RECIPE)
    fields = {"train.ignore_fields": "a", "train.initialize_from": origin}
    config = load_config(tmp_path / "recipe.py", fields, inputs=False)
    with pytest.raises(UsageError, match=f"with train.initialize_from={origin}, leave it out"):
        check_pretrained(config)


DEEP = {
    "llama": {"num_hidden_layers": 10**9},
    "qwen2": {"num_hidden_layers": 10**9},
    "ministral": {"num_hidden_layers": 10**9},
    "gpt2": {"n_layer": 10**9},
    "convnext": {"depths": [1, 10**9]},
    "siglip": {"vision_config": {"num_hidden_layers": 10**9}},
}


@pytest.mark.parametrize("family", DEEP)
def test_far_more_layers_than_tensors_are_refused_before_anything_is_built(tmp_path, family):
    folder = folders.write_config(tmp_path, folders.FAMILIES[family], **DEEP[family])
    with pytest.raises(UsageError, match=r"config\.json: \S+=.* is more than the folder has"):
        describe(folder)
