"""How a run starts: its length by epochs, and what it says before its first step."""

import json
from pathlib import Path

import train
from tests.end_to_end.verbs import metrics

TINY = {"model.channels": "4", "train.log_every_steps": "1", "mesh.data": "1"}


def start(workdir: Path, recipe: str = "digits_cnn", **fields: str) -> int:
    """Runs train.py in this process; `fields` are overrides with `__` for the dot."""
    fields = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *flags])


def test_a_run_by_epochs_is_the_run_of_as_many_steps_and_goes_on_by_more(tmp_path, capsys):
    def learning_rates(name: str, **length: str) -> dict[int, float]:
        assert start(tmp_path / name, **length) == 0
        return {step: line["learning_rate"] for step, line in metrics(tmp_path / name).items()}

    # 1,290 examples, 64 a batch: 0.2 passes are 4.03 batches.
    by_epochs = learning_rates("epochs", train__epochs="0.2")
    assert by_epochs == learning_rates("steps", train__steps="5")
    assert json.loads((tmp_path / "epochs" / "config.json").read_text())["train"]["steps"] == 5
    capsys.readouterr()

    assert learning_rates("epochs", train__epochs="0.2") == by_epochs
    told = capsys.readouterr().err
    assert "5 of 5 steps are done" in told and "a larger --config.train.epochs" in told
    assert "since this workdir" not in told

    assert max(learning_rates("epochs", train__epochs="0.3")) == 7
    told = capsys.readouterr().err
    assert "train.epochs was 0.2, is 0.3 (since" in told and "train.steps was" not in told
