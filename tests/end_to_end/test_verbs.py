"""The verbs together: trained, evaluated on one device and on eight, finished, refused."""

import json
import re
import shutil

import numpy as np
import pytest
from sklearn import metrics as sklearn

from configs.reading.saved import read_config
from reporting.report.predictions import Predictions
from tests.end_to_end.verbs import TINY_TEXT, metrics, run, write_text
from training.schedules import build_schedule

DIGITS = {
    "model__channels": "8,16",
    "model__width": "32",
    "train__steps": "40",
    "train__evaluate_every_steps": "20",
    "train__profile_from_step": "30",
    "train__ema_decay": "0.9",
    "checkpoint__every_steps": "1000",
    "data__global_batch_size": "32",
}
RECIPE = "--config=configs/digits_cnn.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained picture classifier's workdir."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    run("train.py", RECIPE, f"--workdir={workdir}", **DIGITS)
    return workdir


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A trained language model's workdir."""
    folder = tmp_path_factory.mktemp("text")
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()}
    path = write_text(folder / "input.txt")
    recipe = "--config=configs/shakespeare_char.py"
    run("train.py", recipe, f"--workdir={folder / 'run'}", data__path=str(path), **fields)
    return folder / "run"


def evaluate(workdir, *flags: str, devices: int = 1) -> dict:
    return json.loads(
        run("evaluate.py", f"--workdir={workdir}", *flags, devices=devices).stdout.splitlines()[-1]
    )


def test_a_run_leaves_everything_it_promises(digits):
    for name in (
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints/40",
        "report.html",
        "profile",
    ):
        assert (digits / name).exists(), name
    lines = metrics(digits)
    keys = {"loss", "accuracy", "learning_rate", "gradient_norm", "step_seconds"}
    assert keys <= lines[40].keys()
    page = (digits / "report.html").read_text(encoding="utf-8")
    for section in ("Predictions", "Mistakes it was surest of", "First filters"):
        assert f"<h2>{section}" in page


def test_evaluation_is_the_same_on_one_device_and_on_eight(digits):
    one, eight = evaluate(digits), evaluate(digits, devices=8)
    assert (one["split"], one["examples"], one["step"]) == ("test", 360, 40)
    assert one["accuracy"] == eight["accuracy"]
    assert one["loss"] == pytest.approx(eight["loss"], rel=1e-6)


def test_metrics_and_the_table_are_scikit_learns_of_the_written_predictions(digits, tmp_path):
    path = tmp_path / "predictions.jsonl"
    flags = (f"--predictions={path}", "--weights=raw", "--split=test")
    *lines, last = run("evaluate.py", f"--workdir={digits}", *flags).stdout.splitlines()
    measured = json.loads(last)
    keys = ["step", "split", "examples", "loss", "accuracy", "accuracy_top5"]
    assert [*measured] == keys
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["example"] for row in rows] == list(range(360))
    label, prediction, scores, probability = (
        np.array([row[name] for row in rows])
        for name in ("label", "prediction", "scores", "probability")
    )
    np.testing.assert_array_equal(probability, scores.max(axis=1))
    names = [(str(row["label"]), str(row["prediction"])) for row in rows]
    assert names == [(row["label_name"], row["prediction_name"]) for row in rows]

    labels = range(10)
    assert measured["accuracy"] == sklearn.accuracy_score(label, prediction)
    top5 = sklearn.top_k_accuracy_score(label, scores, k=5, labels=labels)
    assert measured["accuracy_top5"] == pytest.approx(top5, abs=1e-12)
    loss = sklearn.log_loss(label, scores / scores.sum(axis=1, keepdims=True), labels=labels)
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)
    told = Predictions("test", "0123456789", np.arange(360), label, prediction, probability)
    np.testing.assert_array_equal(
        told.confusion(), sklearn.confusion_matrix(label, prediction, labels=labels)
    )
    by_class = sklearn.precision_recall_fscore_support(
        label, prediction, labels=labels, zero_division=np.nan
    )
    *shares, examples = (column.tolist() for column in by_class)
    shown = [
        [str(n), f"{examples[n]}"]
        + ["-" if np.isnan(column[n]) else f"{100 * column[n]:.1f} %" for column in shares]
        for n in labels
    ]
    macro = sklearn.precision_recall_fscore_support(
        label, prediction, average="macro", zero_division=0
    )
    shown.append(["macro average", "360", *(f"{100 * share:.1f} %" for share in macro[:3])])
    assert [re.split(r"\s{2,}", line) for line in lines[1:-1]] == shown
    assert len({len(line) for line in lines[:-1]}) == 1 and lines[-1] == ""


def test_the_average_and_the_raw_weights_are_both_there(digits):
    assert evaluate(digits)["loss"] != evaluate(digits, "--weights=raw")["loss"]


def test_bits_per_byte_and_perplexity_follow_from_the_loss(text):
    measured = evaluate(text)
    assert measured["split"] == "validation"
    assert measured["perplexity"] == pytest.approx(np.exp(measured["loss"]))
    assert measured["bits_per_byte"] > 0


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--split=holdout", "there are train, validation, test"),
        ("--step=7", "its steps: 20, 40"),
        ("--step=last", "its steps: 20, 40"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(digits, flag, told):
    done = run("evaluate.py", f"--workdir={digits}", flag, expect=2)
    assert done.stdout == ""
    assert told in done.stderr.strip().splitlines()[-1]


def test_a_damaged_checkpoint_is_named_and_the_older_one_evaluated(digits, tmp_path):
    workdir = shutil.copytree(digits, tmp_path / "run")
    victim = next((workdir / "checkpoints" / "40" / "model").rglob("*.ocdbt"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = run("evaluate.py", f"--workdir={workdir}")
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 20
    assert f"{victim} is damaged" in done.stderr
    done = run("evaluate.py", f"--workdir={workdir}", "--step=40", expect=2)
    assert f"{victim} is damaged" in done.stderr


def test_a_finished_run_says_so_and_how_to_go_on(digits):
    before = (digits / "metrics.jsonl").read_bytes()
    done = run("train.py", RECIPE, f"--workdir={digits}", **DIGITS)
    assert "is finished: 40 of 40 steps" in done.stderr
    assert "--config.train.steps" in done.stderr
    assert (digits / "metrics.jsonl").read_bytes() == before


def test_more_steps_go_on_and_another_model_is_refused(digits, tmp_path):
    workdir = shutil.copytree(digits, tmp_path / "run")
    done = run(
        "train.py", RECIPE, f"--workdir={workdir}", expect=2, **DIGITS | {"model__width": "48"}
    )
    assert "model.width was 32, is 48" in done.stderr
    longer = DIGITS | {"train__steps": "60", "train__log_every_steps": "1"}
    done = run("train.py", RECIPE, f"--workdir={workdir}", **longer)
    assert "going on from checkpoint 40" in done.stderr
    assert max(metrics(workdir)) == 60

    # The warm-up of 50 steps was cut to 4: it has been, and the way down is longer now.
    config = read_config(workdir)
    rates = [metrics(workdir)[step]["learning_rate"] for step in range(41, 61)]
    np.testing.assert_allclose(rates, build_schedule(config, 4)(np.arange(40, 60)), rtol=1e-5)
    was = float(build_schedule(read_config(digits), 4)(40))
    told = f"the learning rate of step 41 is {rates[0]:.3g}, and was to be {was:.3g}: "
    assert told + "optimizer.schedule=cosine now goes over train.steps=60, and" in done.stderr


def test_a_lost_config_does_not_let_another_model_in(digits, tmp_path):
    workdir = shutil.copytree(digits, tmp_path / "run")
    (workdir / "config.json").unlink()
    longer = DIGITS | {"train__steps": "41"}
    other = longer | {"model__width": "48"}
    done = run("train.py", RECIPE, f"--workdir={workdir}", expect=2, **other)
    assert "holds a run of another configuration: model.width was 32, is 48" in done.stderr
    assert not (workdir / "config.json").exists()
    run("train.py", RECIPE, f"--workdir={workdir}", **longer)
    assert max(metrics(workdir)) == 41


def test_a_sitting_that_does_nothing_writes_nothing(digits, tmp_path):
    workdir = shutil.copytree(digits, tmp_path / "run")
    before = (workdir / "config.json").read_bytes()
    done = run("train.py", RECIPE, f"--workdir={workdir}", **DIGITS | {"train__steps": "30"})
    assert "is finished: 40 of 30 steps" in done.stderr
    assert (workdir / "config.json").read_bytes() == before


def test_a_run_that_saved_no_step_begins_anew_with_other_settings(digits, tmp_path):
    workdir = shutil.copytree(digits, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    other = DIGITS | {"model__width": "48", "train__steps": "2", "train__profile_from_step": "none"}
    done = run("train.py", RECIPE, f"--workdir={workdir}", **other)
    assert "model.width was 32, is 48 (no step was saved of the earlier" in done.stderr
    assert read_config(workdir).model.width == 48 and max(metrics(workdir)) == 2


def test_more_devices_than_there_are_is_refused_before_the_workdir_is_made(tmp_path):
    workdir = tmp_path / "run"
    done = run("train.py", RECIPE, f"--workdir={workdir}", expect=2, mesh__data="4", **DIGITS)
    assert "4 devices" in done.stderr
    assert not workdir.exists()


def test_a_run_that_is_not_finite_ends_with_a_line_and_no_traceback(tmp_path):
    workdir = tmp_path / "run"
    fields = DIGITS | {
        "optimizer__learning_rate": "1e30",
        "optimizer__warmup_steps": "0",
        "train__max_skipped_steps": "3",
        "train__debug_nans": "true",
        "train__ema_decay": "none",
    }
    done = run("train.py", RECIPE, f"--workdir={workdir}", expect=1, **fields)
    assert "3 steps in a row were not finite" in done.stderr
    assert done.stderr.count("again, one operation at a time: the first ") == 1
    assert "(forward, model/layers/convolution.py:" in done.stderr
    assert "Traceback" not in done.stderr
    assert (workdir / "report.html").exists()


def test_a_batch_can_be_looked_at_before_training(tmp_path):
    done = run("train.py", RECIPE, "--show_batch", **DIGITS)
    assert "label" in done.stdout


def test_a_run_that_ends_before_its_limit_of_steps_that_are_not_finite_has_diverged(tmp_path):
    workdir = tmp_path / "run"
    fields = DIGITS | {
        "optimizer__learning_rate": "1e30",
        "optimizer__warmup_steps": "0",
        "train__steps": "12",
        "train__profile_from_step": "none",
        "train__evaluate_every_steps": "6",
        "checkpoint__every_steps": "6",
    }
    done = run("train.py", RECIPE, f"--workdir={workdir}", expect=1, **fields)
    assert "the run ends at step 12, its last 11 not finite" in done.stderr
    assert "validation: loss, accuracy, accuracy_top5 not finite: no result" in done.stderr
    assert "diverged" in (workdir / "report.html").read_text(encoding="utf-8")
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [json.loads(line) for line in lines if "validation/loss" in line]
    assert [line["validation/accuracy"] for line in evaluations] == [None, None]
    refused = run("evaluate.py", f"--workdir={workdir}", "--step=best", expect=2)
    assert "no checkpoint" in refused.stderr
    path = tmp_path / "predictions.jsonl"
    done = run("evaluate.py", f"--workdir={workdir}", f"--predictions={path}")
    (line,) = done.stdout.splitlines()  # No table of classes.
    told = json.loads(line, parse_constant=pytest.fail)
    assert told == {"step": 6, "split": "test", "examples": 360} | dict.fromkeys(
        ("loss", "accuracy", "accuracy_top5")
    )
    assert "evaluate.py: not finite, and null below: loss, accuracy, accuracy_top5" in done.stderr
    first = json.loads(path.read_text().splitlines()[0], parse_constant=pytest.fail)
    assert first["prediction"] is first["probability"] is None
