"""`make gpu-run` at toy size, on CPU: what it writes, that it goes on, and that it can fail."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import bench_gpu, gpu_run, gpu_training
from benchmarks.findings import Failed, Findings
from tests.end_to_end.verbs import ROOT, TINY_TEXT, environment, run, write_text


def gpu_run_toy(out: Path, *arguments: str) -> tuple[int, dict, subprocess.CompletedProcess]:
    command = [sys.executable, "benchmarks/gpu_run.py", "--toy", f"--out={out}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(out.read_text()), done


@pytest.mark.timeout(1800)
def test_the_whole_run_names_what_failed_and_a_second_one_mends_it(tmp_path):
    out, patience = tmp_path / "gpu_run.json", "--budget_seconds=1700"
    status, report, done = gpu_run_toy(out, patience, "--target_loss=0.01")
    statuses = {name: part["status"] for name, part in report["parts"].items()}
    speed = {name for name, part in gpu_run.PARTS.items() if part.kind == "speed"}
    missing = speed - set(bench_gpu.TOY_ROWS)
    assert statuses == dict.fromkeys(gpu_run.PARTS.keys() - missing, "passed") | {
        "training": "failed"
    }, done.stderr
    assert status == 1
    training = report["parts"]["training"]
    failed = [name for name, check in training["checks"].items() if not check["passed"]]
    assert failed == ["train.py reaches the target loss"]
    assert "not 0.01" in training["why"] and training["why"] in done.stdout

    # What broke off was resumed on its way, bit by bit as if nothing had been.
    figures = training["figures"]
    assert 0 < figures["resumed_from_step"] <= figures["killed_at_step"] < figures["steps"]
    assert figures["differences"] == []
    assert figures["evaluated"] == pytest.approx(figures["evaluated_on_cpu"], rel=1e-6)
    last = figures["validation_losses"][str(figures["steps"])]
    assert figures["evaluated"] == pytest.approx(last, rel=1e-6)
    for name in bench_gpu.TOY_ROWS:
        assert report["parts"][name]["figures"]["triform_tokens_per_second"] > 0
    assert report["machine"]["versions"]["jax"] and report["machine"]["device"] == "cpu"

    kept = report["parts"]["gpt2_124m"]
    status, report, done = gpu_run_toy(out, patience)
    assert status == 0, done.stderr
    assert report["parts"]["gpt2_124m"] == kept and "gpt2_124m: passed before" in done.stderr
    figures = report["parts"]["training"]["figures"]
    assert figures["validation_losses"][str(figures["target_reached_at_step"])] <= 3.4
    assert done.stdout.count("| passed |") == len(report["parts"])

    out.write_text(out.read_text().replace(report["code"], "another"))
    status, report, done = gpu_run_toy(out, "--only=gpt2_124m", "--budget_seconds=1")
    assert (status, report["parts"]["gpt2_124m"]["status"]) == (1, "not run")
    assert "begun anew" in done.stderr and list(report["parts"]) == ["gpt2_124m"]


def planted(found: Findings, how: str) -> None:
    def refuted() -> str:
        raise Failed("four is not five")

    found.note(figure=1)
    found.check("one that holds", lambda: "it holds")
    found.check("one that does not", refuted if how == "refuted" else lambda: "it holds")
    if how == "late":
        subprocess.Popen(["sleep", "50"])
        print("about to wait", flush=True)
        time.sleep(50)
    if how == "broken":
        raise RuntimeError("planted")


@pytest.mark.parametrize(
    ("how", "status", "why", "last"),
    [
        ("refuted", "failed", "one that does not: four is not five", "FAILED  one that does not"),
        ("late", "out of time", "20 s were over", "about to wait"),
        ("broken", "failed", "its process ended with status 1", "RuntimeError: planted"),
    ],
)
def test_a_part_that_fails_is_named_with_its_last_lines(how, status, why, last):
    outcome = gpu_run.in_own_process(planted, 20, True, arguments=(how,))
    assert (outcome["status"], outcome["why"]) == (status, why)
    assert last in outcome["last_lines"][-1]
    assert outcome["figures"] == {"figure": 1} and outcome["checks"]["one that holds"]["passed"]


def test_runs_that_differ_are_not_called_equal(tmp_path):
    text = write_text(tmp_path / "input.txt")
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()}
    fields |= {"data__path": str(text), "train__steps": "4"}
    recipe = "--config=configs/shakespeare_char.py"
    for seed in ("0", "1"):
        run("train.py", recipe, f"--workdir={tmp_path / seed}", **fields, seed=seed)
    shutil.copytree(tmp_path / "0", tmp_path / "copy")
    assert gpu_training.differences_of(tmp_path / "0", tmp_path / "copy", 4) == []
    log = tmp_path / "copy/metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    (lost,) = gpu_training.differences_of(tmp_path / "0", tmp_path / "copy", 4)
    assert lost.startswith("loss of step 1: ") and lost.endswith(" and None")
    found = gpu_training.differences_of(tmp_path / "0", tmp_path / "1", 4)
    assert any(line.startswith("loss of step 4: ") for line in found)
    assert any(line.startswith("params.embedding.tokens.embedding: ") for line in found)


def test_the_gpu_variant_is_the_one_that_the_recipe_tells():
    fields = gpu_training.gpu_variant()
    assert (fields["model.depth"], fields["model.width"]) == ("6", "384")
    assert fields["model.num_heads"] == "6" and fields["data.global_batch_size"] == "64"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], r"JAX finds no GPU here \(.*(CUDA|cuda|only cpu).*\): --toy tries this on CPU"),
        (["--text=nowhere.txt"], "--text=nowhere.txt is not a file"),
        (["--only=everything"], "--only must be one of training, gpt2_124m, attention"),
        (["--toy", "--only=lstm_2x650"], "--toy has no such part"),
    ],
)
def test_a_mistake_is_told(arguments, said, tmp_path):
    with pytest.raises(gpu_run.UsageError, match=said):
        gpu_run.main([*arguments, f"--out={tmp_path / 'out.json'}"])
    assert not (tmp_path / "out.json").exists()
