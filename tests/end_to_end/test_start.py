"""How a run starts: its length by epochs, and what it says before its first step."""

import html
import json
import re
from pathlib import Path

import train
from tests.end_to_end.verbs import metrics, write_text

TINY = {"train.log_every_steps": "1", "mesh.data": "1"}


def start(workdir: Path, recipe: str = "digits_cnn", **fields: str) -> int:
    """Runs train.py in this process; `fields` are overrides with `__` for the dot."""
    fields = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *flags])


def test_a_run_by_epochs_is_the_run_of_as_many_steps_and_goes_on_by_more(tmp_path, capsys):
    def learning_rates(name: str, **length: str) -> dict[int, float]:
        assert start(tmp_path / name, model__channels="4", **length) == 0
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


def test_a_run_says_what_it_is_before_its_first_step_and_in_its_report(tmp_path, capsys):
    text = write_text(tmp_path / "input.txt")
    fields = {
        "data__path": str(text),
        "data__sequence_length": "16",
        "data__global_batch_size": "8",
        "train__gradient_accumulation": "2",
        "train__freeze": "embedding.tokens.*",
        "task__sample_prompts": "()",
        "model__width": "16",
        "model__depth": "1",
    }
    assert start(tmp_path / "run", "shakespeare_char", train__steps="2", **fields) == 0
    told = capsys.readouterr().err.splitlines()
    first = next(n for n, line in enumerate(told) if line.startswith("parameters"))
    rows = dict(line.split("  ", 1) for line in told[first : first + 6])
    rows = {name: text.strip() for name, text in rows.items()}
    assert told[first + 6] == "compiling the train step"

    counts = re.fullmatch(r"([\d,]+), ([\d,]+) of them trained \(decoder\)", rows["parameters"])
    count, trained = (int(number.replace(",", "")) for number in counts.groups())
    size = len(json.loads((tmp_path / "run" / "tokenizer.json").read_text())["model"]["vocab"])
    assert count - trained == 16 * size
    windows = re.fullmatch(r"([\d,]+) windows, [\d,]+ tokens: (.*)", rows["train"])
    examples = int(windows[1].replace(",", ""))
    assert windows[2] == str(text)
    assert rows["validation"].endswith(": cut from training by data.validation_fraction=0.1")
    assert rows["length"] == (
        f"2 steps of 8 examples in 2 parts one after the other: {16 / examples:.3g} epochs of "
        f"{examples / 8:.3g} steps"
    )
    assert rows["devices"] == "1 x cpu, float32"
    assert rows["train step"] == "tokens 8 x 16, attention by xla"
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(html.escape(text) in page for text in rows.values())

    assert start(tmp_path / "run", "shakespeare_char", train__steps="4", **fields) == 0
    told = capsys.readouterr().err
    assert "4 steps of 8 examples in 2 parts" in told and "; 1 x cpu, float32\n" in told
    assert "parameters" not in told.partition("compiling")[0].replace("of 2 parameters", "")
