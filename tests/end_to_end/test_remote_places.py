"""Where URLs can be used, and the one line that is said elsewhere; nothing is written."""

import json
import shutil
from pathlib import Path

import pytest

import checkpoint
import evaluate
import export
import generate
import train
from configs.errors import UsageError
from tests.golden.workdirs import WORKDIRS
from tests.storage.emulators import everywhere

TEXT = WORKDIRS / "attention_text"
ROOT = Path(train.__file__).parent
RECIPE = f"--config={ROOT}/configs/python_stdlib.py"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory, in which nothing may be written."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRIFORM_CACHE", str(tmp_path / "cache"))
    return folder


REFUSED = [
    (
        train.main,
        [RECIPE, "--workdir=s3://bucket/run"],
        "--workdir=s3://bucket/run must be a path of this machine, or gs://: train in a folder, "
        "with --config.checkpoint.mirror=s3://bucket/run",
    ),
    (train.main, [RECIPE, "--workdir=hdfs://a/b"], "must be a path of this machine, or gs://"),
    (
        train.main,
        [RECIPE, "--workdir=run", "--config.checkpoint.mirror=az://a/b"],
        "checkpoint.mirror=az://a/b must be a path of this machine, or gs://, or s3://",
    ),
    (
        train.main,
        [RECIPE, "--workdir=run", "--config.checkpoint.mirror=run/copy"],
        "checkpoint.mirror=run/copy and run overlap",
    ),
    (
        train.main,
        [RECIPE, "--workdir=run", "--config.data.cache_dir=s3://a/b"],
        "data.cache_dir=s3://a/b must be a path of this machine: give a folder",
    ),
    (
        train.main,
        [RECIPE, "--workdir=run", "--config.train.initialize_from=gs://a/b"],
        "python checkpoint.py copy gs://a/b DIR",
    ),
    (
        train.main,
        [RECIPE, "--workdir=run", "--config.data.source=text_files", "--config.data.path=ftp://a"],
        "data.path=ftp://a must be a path of this machine, or gs://, or s3://: download it first",
    ),
    (evaluate.main, ["--workdir=ftp://a/b"], "must be a path of this machine, or gs://, or s3://"),
    (evaluate.main, ["--from=s3://a/b"], "--from=s3://a/b must be a path of this machine"),
    (
        evaluate.main,
        ["--workdir=gs://a/b", f"--from={TEXT}"],
        "python checkpoint.py copy gs://a/b DIR",
    ),
    (
        evaluate.main,
        [f"--workdir={TEXT}", "--predictions=s3://a/b"],
        "--predictions=s3:/a/b must be a path of this machine: give a file",
    ),
    (generate.main, ["--workdir=ftp://a/b", "--prompt=x"], "must be a path of this machine"),
    (
        export.main,
        [f"--workdir={TEXT}", "--format=safetensors", "--out=s3://a/b"],
        "--out=s3:/a/b must be a path of this machine",
    ),
    (checkpoint.main, ["inspect", "ftp://a/b"], "ftp://a/b must be a path of this machine, or gs"),
    (checkpoint.main, ["copy", str(TEXT), "http://a/b"], "http://a/b must be a path of this"),
]


@pytest.mark.parametrize(("main", "arguments", "message"), REFUSED)
def test_other_urls_are_one_line_and_nothing_is_written(main, arguments, message, here, tmp_path):
    with pytest.raises(UsageError) as refused:
        main(arguments)
    assert message in str(refused.value)
    assert not [*here.iterdir()] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("url", ["gs://", "gs:/bucket/run", "gs:///run"])
def test_a_url_without_a_bucket_is_told(url, here):
    with pytest.raises(UsageError, match=r"no whole URL: gs://BUCKET/NAME"):
        train.main([RECIPE, f"--workdir={url}"])
    assert not [*here.iterdir()]


def test_a_missing_package_is_named(here, monkeypatch):
    monkeypatch.setattr("configs.remote.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package gcsfs: pip install -e"):
        train.main([RECIPE, "--workdir=gs://bucket/run"])


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@everywhere
def test_checkpoints_are_copied_there_and_back_and_looked_into(place, tmp_path, capsys, here):
    assert checkpoint.main(["copy", str(TEXT), place]) == 0
    assert capsys.readouterr().out.startswith(f"{place}: step 12, ")
    with pytest.raises(UsageError, match="is there already"):
        checkpoint.main(["copy", str(TEXT), place])
    assert checkpoint.main(["copy", place, str(tmp_path / "back"), "--json"]) == 0
    assert list(objects(capsys)[0]["steps"]) == ["12"]
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == ["checkpoints", "config.json", "metrics.jsonl", "tokenizer.json"]
    assert checkpoint.main(["diff", str(TEXT), str(tmp_path / "back")]) == 0
    capsys.readouterr()

    step = f"{place}/checkpoints/12"
    assert checkpoint.main(["verify", place]) == checkpoint.main(["verify", step]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("step 12: whole: ")
    assert checkpoint.main(["inspect", place]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == step and "float32[20, 16]" in "\n".join(lines)
    assert checkpoint.main(["diff", str(TEXT), step]) == 0
    assert capsys.readouterr().out.startswith("0 fields and 0 of ")
    assert checkpoint.main(["copy", step, str(tmp_path / "step")]) == 0
    assert checkpoint.main(["verify", str(tmp_path / "step")]) == 0
    assert checkpoint.main(["copy", step, f"{place}-2"]) == 0
    capsys.readouterr()
    with pytest.raises(UsageError, match=r"no such step|no such checkpoint"):
        checkpoint.main(["verify", place, "--step=11"])
    assert not [*here.iterdir()]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_model_in_a_store_is_evaluated_and_answers(scheme, request, capsys, monkeypatch):
    url = f"{request.getfixturevalue(scheme).bucket()}/run"
    assert checkpoint.main(["copy", str(TEXT), url]) == 0
    monkeypatch.chdir(ROOT)  # the path of the data is relative
    capsys.readouterr()
    found = []
    for workdir in (str(TEXT), url):
        assert evaluate.main([f"--workdir={workdir}"]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[0] == found[1]
    texts = []
    for workdir in (str(TEXT), url, url):
        assert generate.main([f"--workdir={workdir}", "--prompt=ab", "--max_tokens=4"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    for step, message in (("11", "no such checkpoint"), ("best", "")):
        if message:
            with pytest.raises(UsageError, match=message):
                evaluate.main([f"--workdir={url}", f"--step={step}"])
        else:
            assert evaluate.main([f"--workdir={url}", f"--step={step}"]) == 0
    with pytest.raises(UsageError, match="holds no run"):
        evaluate.main([f"--workdir={url}/nothing"])


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_damaged_object_of_a_model_is_named(scheme, request, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the path of the data is relative
    emulator = request.getfixturevalue(scheme)
    url = f"{emulator.bucket()}/run"
    folder = Path(shutil.copytree(TEXT, tmp_path / "run"))
    assert checkpoint.main(["copy", str(folder), url]) == 0
    victim = next(folder.glob("checkpoints/12/model/d/*")).relative_to(folder)
    emulator.files().pipe_file(f"{url}/{victim}", (folder / victim).read_bytes()[::-1])
    with pytest.raises(UsageError, match=r"none of the checkpoints in .* is whole"):
        evaluate.main([f"--workdir={url}"])
    with pytest.raises(UsageError, match=rf"{url}/{victim} is damaged"):
        evaluate.main([f"--workdir={url}", "--step=12"])
