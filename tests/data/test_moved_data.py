"""Promises of data that is elsewhere than a run read it."""

import json
import shutil

import pytest

import evaluate
from configs.errors import UsageError
from tests.golden.workdirs import FIGURES, ROOT, WORKDIRS

WORKDIR = f"--workdir={WORKDIRS / 'attention_text'}"


def refusal(*flags: str) -> str:
    with pytest.raises(UsageError) as raised:
        evaluate.main([WORKDIR, *flags])
    return str(raised.value)


def test_an_evaluation_names_the_field_that_says_where_moved_data_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the path of the data is relative
    assert refusal() == (
        f"data.path=tests/golden/text.txt is not there, seen from {tmp_path}. If the data was "
        "moved, --config.data.path=... says where it is"
    )
    assert "If the data was moved" not in refusal("--config.data.path=nowhere.txt")
    (tmp_path / "moved").mkdir()
    shutil.copy(ROOT / "tests/golden/text.txt", tmp_path / "moved" / "text.txt")
    assert evaluate.main([WORKDIR, "--config.data.path=moved/text.txt"]) == 0
    known = json.loads(FIGURES.read_text())["attention_text"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["split"] == known["split"]
