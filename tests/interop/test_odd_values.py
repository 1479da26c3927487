"""Files with values of a wrong type give one line that names the file, and no traceback."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UsageError
from interop.deriving import derive, load_tokenizer, special_tokens_of
from interop.exported import NAME
from interop.families import FAMILIES, describe
from interop.formats import gguf_file
from interop.opening import open_model
from tests.interop import folders, pairs
from tests.interop.foreign import write_tokenizer

ODD = (None, "odd", ["odd"], [["odd"]], [[1]], 5, -1, 0.5, float("inf"), True, {}, {"odd": []})

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
OPTIONAL = {
    "llama": {"rope_scaling": SCALING, "partial_rotary_factor": 1.0},
    "mistral": {"rope_parameters": SCALING | {"rope_theta": 7e4}},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "bert": {"id2label": {"0": "no"}},
}
"""Fields that the small folders lack, and that a family reads if they are there."""


def config_of(family: str) -> dict[str, Any]:
    """A config.json with the fields that we write and others that we read."""
    if family in pairs.SETTINGS:
        settings = pairs.settings_of(family)
        return FAMILIES[family].configure(settings, pairs.SIZES, "target_tokens")
    config = folders.FAMILIES[family]
    return {"layer_types": ["full_attention"] * 3} | config | OPTIONAL.get(family, {})


def changed(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of a section, each with an odd value in one field of it or of a section in it."""
    for name, value in values.items():
        for odd in ODD:
            yield values | {name: odd}
        for inner in changed(value) if isinstance(value, dict) else ():
            yield values | {name: inner}


def read_or_refuse(path: Path, read: Any) -> None:
    """Read a folder, which may raise `UsageError` alone, in one line that names it."""
    try:
        read()
    except UsageError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_values_in_config_json_are_read_or_refused(family, tmp_path):
    config = config_of(family)
    folders.write_config(tmp_path, config)
    for one in changed(config):
        (tmp_path / "config.json").write_text(json.dumps(one))
        read_or_refuse(tmp_path, lambda: describe(tmp_path))


PREPROCESSOR = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "crop_pct": 0.9,
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
    "size": {"shortest_edge": 8},
}


@pytest.mark.parametrize("family", folders.PICTURES)
def test_odd_values_in_preprocessor_config_are_read_or_refused(family, tmp_path):
    folders.write_config(tmp_path, folders.FAMILIES[family])
    for one in changed(PREPROCESSOR):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(one))
        read_or_refuse(tmp_path, lambda: describe(tmp_path))


@pytest.fixture
def text_folder(tmp_path):
    """A folder that can be used, as far as its weights are not read."""
    folders.write_config(
        tmp_path, folders.LLAMA | {"vocab_size": write_tokenizer(tmp_path, "llama3")}
    )
    assert derive(tmp_path)[0].special_tokens
    return tmp_path


FILES = {
    "generation_config.json": {"eos_token_id": 1},
    "tokenizer_config.json": {
        "eos_token": {"content": "<|end_of_text|>"},
        "chat_template": [{"name": "default", "template": "{{ bos_token }}"}],
    },
    "config.json": folders.LLAMA | {"eos_token_id": 1, "bos_token_id": 0, "id2label": {"0": "a"}},
}


@pytest.mark.parametrize("name", FILES)
def test_odd_values_about_tokens_are_read_or_refused(name, text_folder):
    for one in changed(FILES[name]):
        (text_folder / name).write_text(json.dumps(one))
        read_or_refuse(text_folder, lambda: derive(text_folder))


@pytest.mark.parametrize(
    "added",
    [None, 5, "odd", ["odd"], [["odd"]], [{}], [{"id": 1}], [{"id": "1", "content": "a"}],
     [{"id": -1, "content": "a"}], [{"id": 1, "content": ["a"]}]],
)  # fmt: skip
def test_odd_added_tokens_are_refused(added, text_folder):
    file = text_folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"added_tokens": added}))
    with pytest.raises(UsageError, match=r"added_tokens|which token ends a text"):
        derive(text_folder)


@pytest.mark.parametrize(
    "odd", [5, [], {}, {"ends": []}, {"ends": ["1"]}, {"ends": [[1]]}, {"ends": [1], "bos": 1}]
)
def test_odd_special_tokens_are_named(odd, tmp_path):
    with pytest.raises(UsageError, match=r"triform\.json.* special_tokens"):
        special_tokens_of(odd, tmp_path / NAME)


def test_a_chat_template_that_is_no_text_is_named(text_folder):
    (text_folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"chat_template\.jinja is damaged"):
        derive(text_folder)


@pytest.mark.parametrize("ends", [[10**6], [-1]])
def test_ends_that_the_tokenizer_lacks_are_refused(ends, text_folder):
    special = special_tokens_of({"ends": ends}, text_folder)
    file = text_folder / "tokenizer.json"
    content = json.loads(file.read_text()) | {"post_processor": None}
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        load_tokenizer(file, special)


@pytest.mark.parametrize("text", ["{}", "no JSON"])
def test_a_damaged_tokenizer_inside_a_file_is_named(text, text_folder, monkeypatch):
    path = text_folder / "model.gguf"
    path.touch()
    monkeypatch.setattr(gguf_file, "read_tokenizer", lambda path: text)
    opened = replace(open_model(text_folder), path=path, read_tokenizer=None)
    with pytest.raises(UsageError, match=r"model\.gguf is damaged: its tokenizer: "):
        opened.tokenizer  # noqa: B018
