"""A run that begins with another one's weights has its model and tokenizer by itself."""

import pytest

from configs.reading.explanation import explain
from configs.reading.recipes import load_config
from configs.reading.saved import write_config
from configs.schema.config import Config

CHAT, LABELS = "configs/finetune_chat.py", "configs/text_classification.py"
SMALL = {"model.width": "64", "model.depth": "2", "model.num_heads": "2", "model.dropout": "0.1"}


@pytest.fixture
def origin(tmp_path):
    """The workdir of a small language model, as far as its configuration and tokenizer go."""
    folder = tmp_path / "origin"
    folder.mkdir()
    text = {"data.path": str(tmp_path)}
    write_config(
        load_config("configs/shakespeare_char.py", {**SMALL, **text}, inputs=False), folder
    )
    (folder / "tokenizer.json").write_text("{}")
    return folder


def load(recipe, origin, told=None, workdir=None, **given: str) -> Config:
    fields = {"train.initialize_from": str(origin)}
    fields |= {name.replace("__", "."): value for name, value in given.items()}
    notify = [].append if told is None else told.append
    return load_config(recipe, fields, inputs=False, notify=notify, workdir=workdir)


def test_what_was_not_given_is_that_of_the_origin_and_told(origin):
    told = []
    config = load(CHAT, origin, told)
    assert (config.model.width, config.model.depth, config.model.num_heads) == (64, 2, 2)
    assert config.data.tokenizer.path == str(origin / "tokenizer.json")
    # How it is trained is the recipe's: what is computed of the weights does not depend on it.
    assert config.model.dropout == load_config(CHAT, inputs=False).model.dropout != 0.1
    model, tokenizer = told
    assert model.startswith(f"the model is that of {origin}: ")
    assert "model.width=64 instead of 192" in model and "dropout" not in model
    assert tokenizer.endswith(f"data.tokenizer.path={origin}/tokenizer.json")


def test_what_is_given_goes_before(origin):
    config = load(CHAT, origin, model__width="128", model__num_heads="4", model__dropout="0.3")
    assert (config.model.width, config.model.depth, config.model.num_heads) == (128, 2, 4)
    assert config.model.dropout == 0.3
    assert load(CHAT, origin, data__tokenizer__kind="bytes").data.tokenizer.kind == "bytes"
    other = load(LABELS, origin, model__architecture="encoder").model
    assert (other.architecture, other.width) == ("encoder", 128)


def test_a_classifier_takes_the_language_model_and_keeps_its_own_head(origin):
    config = load(LABELS, origin)
    assert (config.model.architecture, config.model.width) == ("decoder", 64)
    assert config.model.dropout == 0.3
    assert config.model.pooling == load_config(LABELS, inputs=False).model.pooling


def test_a_model_that_can_not_do_it_is_left_alone(origin):
    told = []
    config = load("configs/digits_cnn.py", origin, told)
    assert config.model == load_config("configs/digits_cnn.py").model
    assert told == []


def test_explain_shows_what_is_taken_over(origin):
    lines = explain(CHAT, {"train.initialize_from": str(origin)}).splitlines()
    rows = {row.split()[0]: row for row in lines if row.startswith("  ") and row.split()}
    for field in ("model.width", "model.depth", "data.tokenizer.path"):
        assert rows[field].endswith("  train.initialize_from")
    assert rows["model.dropout"].endswith("  default")


def test_a_run_goes_on_with_its_own_when_the_origin_is_gone_or_changed(origin, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    begun = load(CHAT, origin, workdir=str(workdir))
    write_config(begun, workdir)
    (origin / "config.json").unlink()
    told = []
    assert load(CHAT, origin, told, workdir=str(workdir)) == begun
    assert told == []


def test_a_folder_that_is_not_there_takes_nothing(tmp_path):
    for path in (tmp_path / "gone", tmp_path):
        assert load(CHAT, path).model == load_config(CHAT, inputs=False).model
