"""checkpoint.py on workdirs of earlier: what it prints, what it leaves, how it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoint
from configs.errors import UsageError
from tests.end_to_end.verbs import ROOT
from tests.golden.workdirs import WORKDIRS
from training.manifest import digest_of, verify

TEXT, AVERAGED = WORKDIRS / "attention_text", WORKDIRS / "attention_text_averaged"


@pytest.fixture
def workdir(tmp_path) -> Path:
    return Path(shutil.copytree(TEXT, tmp_path / "run"))


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def add_step(steps: Path, number: int) -> Path:
    """Makes step 12 again, as step `number`."""
    folder = Path(shutil.copytree(steps / "12", steps / str(number)))
    manifest = json.loads((folder / "manifest.json").read_text()) | {"step": number}
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_step_is_inspected(workdir, capsys):
    assert checkpoint.main(["inspect", str(workdir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert lines[0] == str(workdir / "checkpoints" / "12")
    assert "step 12 of 12" in text and "data read 12 batches, 96 examples" in text
    assert "params.embedding.tokens.embedding float32[20, 16] 1.28 kB vocabulary embed" in text
    assert "model.width 16" in text and "12 loss 2." in text

    assert checkpoint.main(["inspect", str(workdir), "--json", "--step=12"]) == 0
    (found,) = objects(capsys)
    assert found["position"] == {"batches": 12, "examples": 96}
    assert found["leaves"]["step"] == {"shape": [], "dtype": "int32", "bytes": 4}
    assert found["config"]["model"]["width"] == 16
    assert [one["step"] for one in found["steps"]] == [12]
    files = [path for path in workdir.glob("checkpoints/12/**/*") if path.is_file()]
    assert found["files"] == len(files) - 1  # without the manifest


def test_every_step_is_verified_and_damage_is_named(workdir, capsys):
    steps = workdir / "checkpoints"
    victim = add_step(steps, 13) / "training" / "_METADATA"
    add_step(steps, 14)
    flip(victim)
    assert checkpoint.main(["verify", str(workdir)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("step 12: whole: ") and third.startswith("step 14: whole: ")
    assert second.startswith(f"step 13: {victim} is damaged")
    assert checkpoint.main(["verify", str(workdir), "--step=14"]) == 0
    capsys.readouterr()
    (steps / "14" / "manifest.json").unlink()
    assert checkpoint.main(["verify", "--json", str(workdir)]) == 1
    found = objects(capsys)
    assert [(one["step"], one["whole"]) for one in found] == [
        ("12", True),
        ("13", False),
        ("14", False),
    ]
    assert "never finished" in found[2]["fault"]


def test_a_run_of_today_and_one_of_another_configuration_differ_by_fields_and_arrays(capsys):
    assert checkpoint.main(["diff", str(TEXT), str(TEXT / "checkpoints" / "12")]) == 0
    assert capsys.readouterr().out.startswith("0 fields and 0 of ")
    assert checkpoint.main(["diff", str(TEXT), str(AVERAGED)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "train.ema_decay: null, 0.9" in lines
    assert any(line.startswith("ema.") and "only in" in line for line in lines)
    assert checkpoint.main(["diff", str(TEXT), str(AVERAGED), "--json"]) == 1
    (found,) = objects(capsys)
    assert found["fields"]["train.ema_decay"] == [None, 0.9]
    assert {"name", "only_in"} in [one.keys() for one in found["leaves"]]


def test_damaged_arrays_are_not_compared(workdir, capsys):
    victim = next(workdir.glob("checkpoints/12/model/ocdbt.process_0/d/*"))
    flip(victim)
    assert checkpoint.main(["diff", str(TEXT), str(workdir)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and f"{victim} is damaged" in printed.err


def test_a_copied_workdir_is_a_workdir(workdir, tmp_path, capsys):
    (workdir / "lock").touch()
    (workdir / "checkpoints" / "13.orbax-checkpoint-tmp-0").mkdir()
    target = tmp_path / "copy"
    assert checkpoint.main(["copy", str(workdir), str(target)]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: step 12, ")
    names = sorted(path.name for path in target.iterdir())
    assert names == ["checkpoints", "config.json", "metrics.jsonl", "tokenizer.json"]
    assert [path.name for path in (target / "checkpoints").iterdir()] == ["12"]
    assert verify(target / "checkpoints" / "12") == verify(workdir / "checkpoints" / "12")
    assert checkpoint.main(["diff", str(workdir), str(target)]) == 0
    capsys.readouterr()
    step = tmp_path / "best"
    assert checkpoint.main(["copy", str(workdir / "checkpoints" / "12"), str(step), "--json"]) == 0
    (found,) = objects(capsys)
    assert found["to"] == str(step) and list(found["steps"]) == ["12"]
    assert checkpoint.main(["verify", str(step)]) == 0


def test_of_a_damaged_workdir_nothing_is_copied(workdir, tmp_path, capsys):
    victim = workdir / "checkpoints" / "12" / "model" / "_METADATA"
    victim.unlink()
    before = sorted(tmp_path.iterdir())
    assert checkpoint.main(["copy", str(workdir), str(tmp_path / "copy")]) == 1
    assert f"{victim} is missing" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which command? there are inspect, verify, diff, copy"),
        (["verfy", "{run}"], "no command 'verfy': did you mean verify?"),
        (["frobnicate", "{run}"], "there are inspect, verify, diff, copy"),
        (["verify"], "0 folders are given: checkpoint.py verify DIR"),
        (["diff", "{run}"], "1 folders are given: checkpoint.py diff A B"),
        (["verify", "{run}/checkpoint"], "did you mean {run}/checkpoints?"),
        (["verify", "{run}/config.json"], "config.json is no folder"),
        (["inspect", "{run}", "--step=11"], "no such step; the nearest is 12"),
        (["inspect", "{run}", "--stp=11"], "unknown flag --stp: did you mean --step?"),
        (["inspect", "{run}", "--config.seed=1"], "is not changed here"),
        (["copy", "{run}", "{run}"], "is there already: give a new path"),
        (["copy", "{run}", "{run}/a/b"], "there is no folder {run}/a"),
        (["copy", "{run}/checkpoints", "{run}/new"], "is no workdir and no step"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(workdir, arguments, message):
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UsageError) as error:
        checkpoint.main([one.format(run=workdir) for one in arguments])
    assert message.format(run=workdir) in str(error.value)
    assert sorted(workdir.rglob("*")) == before


def test_it_needs_no_jax_and_no_model():
    script = (
        "import sys, checkpoint; "
        f"checkpoint.main(['diff', {str(TEXT)!r}, {str(TEXT)!r}]); "
        "print(sorted({'jax', 'flax', 'optax', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
