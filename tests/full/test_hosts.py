"""Two processes, joined by jax.distributed, are one run: the batches and losses of one process."""

import json
import sys

import numpy as np
import pytest

from configs.reading.saved import read_config
from data.batches import Batches
from data.preparation import prepare
from parallel.feeding import batch_crc32
from tests.end_to_end.verbs import (
    TINY_TEXT,
    command,
    metrics,
    run,
    write_text,
)
from tests.full.hosts import on_hosts
from training.hashes import written_by
from training.manifest import verify

FIELDS = {
    "model__channels": "8,16",
    "model__width": "32",
    "train__steps": "20",
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": "0",
    "train__log_every_steps": "1",
    "train__evaluate_every_steps": "10",
    "checkpoint__every_steps": "10",
    "data__global_batch_size": "32",
    "data__augmentation__crop": "padded",
    "data__augmentation__crop_padding": "1",
    "data__augmentation__brightness": "0.4",
}


def on_two_hosts(*verb: str, **fields) -> list[tuple[str, str]]:
    """A verb as two processes of two devices each; standard output and error of both."""
    return two_processes(command(*verb, **fields))


def two_processes(command: list[str]) -> list[tuple[str, str]]:
    """A command as two processes that are one run; standard output and error of both."""
    return on_hosts(2, command, devices=2)


def run_on_two_hosts(workdir, *, recipe: str = "digits_cnn", **fields) -> list[str]:
    """train.py on both; standard error of both."""
    verb = ("train.py", f"--config=configs/{recipe}.py", f"--workdir={workdir}")
    told = on_two_hosts(*verb, **fields)
    assert "loss" in told[0][0] and told[1][0] == "" and "step 1" not in told[1][1]
    return [error for _, error in told]


@pytest.fixture(autouse=True)
def _compiled_as_users_have_it(monkeypatch):
    """As `tests.training.runs.as_users_have_it`: twenty steps are followed."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")


def test_two_hosts_augment_train_evaluate_save_and_resume_as_one(tmp_path):
    run("train.py", "--config=configs/digits_cnn.py", f"--workdir={tmp_path / 'one'}", **FIELDS)
    two = tmp_path / "two"
    run_on_two_hosts(two, **FIELDS | {"train__steps": "10", "mesh__fsdp": "2"})
    errors = run_on_two_hosts(two, **FIELDS)
    assert all("going on from checkpoint 10" in text for text in errors)
    alone, together = metrics(tmp_path / "one"), metrics(two)
    assert list(together) == list(range(1, 21))
    losses = [[lines[step]["loss"] for step in together] for lines in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_two_hosts_evaluate_as_one_and_the_first_one_speaks(tmp_path):
    workdir = tmp_path / "run"
    run("train.py", "--config=configs/digits_cnn.py", f"--workdir={workdir}", **FIELDS)
    asked = ("evaluate.py", f"--workdir={workdir}")
    alone = run(*asked, f"--predictions={tmp_path / 'alone.jsonl'}").stdout
    together, silent = on_two_hosts(*asked, f"--predictions={tmp_path / 'together.jsonl'}")
    assert silent[0] == ""
    assert all(line.startswith("[Gloo]") for line in silent[1].splitlines()), silent[1]
    *table, last = together[0].splitlines()
    *its_table, its_last = alone.splitlines()
    assert table == its_table and len(table) > 10
    metrics, its_metrics = json.loads(last), json.loads(its_last)
    assert metrics == pytest.approx(its_metrics)
    rows, its_rows = (
        [*map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())]
        for name in ("together", "alone")
    )
    assert len(rows) == metrics["examples"]
    for row, its in zip(rows, its_rows, strict=True):
        assert row["scores"] == pytest.approx(its["scores"], abs=1e-4)
        assert [row[k] for k in ("example", "label")] == [its[k] for k in ("example", "label")]


def test_a_mixture_goes_on_exactly_on_one_host_and_on_two(tmp_path):
    parts = []
    for number in range(3):
        folder = tmp_path / f"source{number}"
        folder.mkdir()
        write_text(folder / "text.txt", lines=120 * (number + 1))
        parts.append(f"text_files:{folder}")
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()} | {
        "data__source": "mixture",
        "data__parts": ",".join(parts),
        "data__weights": "5,3,2",
        "train__steps": "24",
    }
    recipe, begun = "shakespeare_char", {"train__steps": "8"}
    one, two = tmp_path / "one", tmp_path / "two"
    for more in (begun, {}):
        run("train.py", f"--config=configs/{recipe}.py", f"--workdir={one}", **fields | more)
    run_on_two_hosts(two, recipe=recipe, **fields | begun | {"mesh__fsdp": "2"})
    errors = run_on_two_hosts(two, recipe=recipe, **fields)
    assert all("going on from checkpoint 8" in text for text in errors)

    alone, together = metrics(one), metrics(two)
    assert list(alone) == list(together) == list(range(1, 25))
    losses = [[lines[step]["loss"] for step in alone] for lines in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    config = read_config(one)
    split = prepare(config.data).splits["train"]
    for lines, rows in ((alone, slice(0, 8)), (together, slice(0, 4))):  # of the first process
        batches = Batches(split, global_batch_size=8, seed=0, shuffle=True, rows=rows)
        expected = [batch_crc32(batches[step - 1]) for step in lines]
        assert [line["batch_crc32"] for line in lines.values()] == expected
        assert len(set(expected)) == 24


VERIFY = """
import json, sys
from pathlib import Path
from parallel.distributed import initialize_distributed
initialize_distributed()
from training import hashes
from training.manifest import Damaged
from training.verification import verify_together

read, hash_piece = [], hashes.hash_piece

def counted(folder, piece, hashing):
    read.append(piece.length)
    return hash_piece(folder, piece, hashing)

hashes.hash_piece = counted
try:
    verify_together(Path(sys.argv[1]))
    found = "whole"
except Damaged as damage:
    found = str(damage)
print(json.dumps({"read": sum(read), "found": found}))
"""


def test_each_host_hashes_what_it_wrote_and_verifies_its_share(tmp_path):
    workdir = tmp_path / "run"
    fields = FIELDS | {"train__steps": "1", "mesh__fsdp": "4", "model__width": "512"}
    run_on_two_hosts(workdir, **fields)
    step = workdir / "checkpoints" / "1"
    files = verify(step)["files"]
    writers = {written_by(name, 2) for name in files}
    sizes = [entry[0] for entry in files.values()]
    assert writers == {0, 1}

    verifying = [sys.executable, "-c", VERIFY, str(step)]
    found = [json.loads(out) for out, _ in two_processes(verifying)]
    assert [one["found"] for one in found] == ["whole", "whole"]
    assert sum(one["read"] for one in found) == sum(sizes)
    assert all(one["read"] <= sum(sizes) / 2 + max(sizes) for one in found)

    damaged = [step / name for name in files if files[name][0] == max(sizes)]
    damaged += [step / "commit_success.txt", step / "training" / "_METADATA"]
    for path in damaged:  # of which some are in the share of each process
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    found = [json.loads(out)["found"] for out, _ in two_processes(verifying)]
    assert found[0] == found[1]
    assert all(f"{path} is damaged" in found[0] for path in damaged)


AGREE = """
import sys, time
from configs.errors import UsageError
from parallel.distributed import initialize_distributed
initialize_distributed(seconds=60)
import jax
from parallel.exchange import agree, first, limit_waiting, working
from parallel.rendezvous import Absent

index = jax.process_index()
for turn in range(3):
    assert agree("sum", index + turn, sum) == 1 + 2 * turn
try:
    agree("error", index, lambda values: 1 / 0)
except ZeroDivisionError:
    assert index == 0
except RuntimeError as error:
    assert index == 1 and str(error) == "process 0 of 2: division by zero"

def spin():
    until = time.monotonic() + 8
    while time.monotonic() < until:
        pass

limit_waiting(3)
for at_work in (spin, lambda: [(time.sleep(0.2), move()) for _ in range(40)]):  # either is a sign
    if index == 1:
        with working() as noticed:
            move = noticed(lambda: None)
            at_work()
    assert agree("prepared", index, first) == 0
try:
    if index == 0:
        agree("late", index, first)
except Absent as error:
    print(error)
if index == 1:
    with working():
        time.sleep(8)  # It is alive, but does not work.
limit_waiting(60)
agree("end", None, first)
try:
    with working():
        if index == 1:
            raise UsageError("no such file")
    agree("failed", None, first)
except UsageError as error:
    assert str(error) == ("no such file" if index else "process 1 of 2: no such file")
else:
    assert False
"""


def test_processes_agree_and_one_that_does_not_come_is_named():
    told = two_processes([sys.executable, "-c", AGREE])
    assert told[0][0] == "process 1 of 2 did not answer within 3 s (late)\n"


FAILS = """
import sys
import train
from configs.reading.command_line import run_verb
from training import checkpoints

hash_written_files = checkpoints.hash_written_files

def fail(folder, index, count):
    if index == 1 and folder.name == "10":
        raise OSError(5, "Input/output error", str(folder))
    return hash_written_files(folder, index, count)

checkpoints.hash_written_files = fail
sys.argv = ["train.py", *sys.argv[1:]]
run_verb(train.main)
"""


def test_a_save_that_fails_on_one_host_has_failed_on_all_and_the_run_goes_on(tmp_path):
    workdir = tmp_path / "run"
    verb = ("train.py", "--config=configs/digits_cnn.py", f"--workdir={workdir}")
    told = two_processes([sys.executable, "-c", FAILS, *command(*verb, **FIELDS)[2:]])
    for _, errors in told:
        assert f"checkpoint 10 is not saved: {workdir}" in errors
        assert "Input/output error; failure 1 of the 3 in a row that end a run" in errors
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["20"]
    assert verify(workdir / "checkpoints" / "20")["step"] == 20
