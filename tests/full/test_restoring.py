"""What a resumption reads and needs, on one host and on several."""

import json
import sys

import pytest

from tests.end_to_end.verbs import ROOT, TINY_TEXT, command, run, write_text
from tests.full.hosts import on_hosts
from training.manifest import verify

SLACK = 1 << 20
"""Bytes that each host reads besides: the manifest, the tables of the arrays."""

BESIDES = 64 << 20
"""Bytes of memory that a resumption takes besides the arrays, as for Orbax itself."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of one host, with a state of about 85 MB: its command, workdir and fields."""
    folder = tmp_path_factory.mktemp("saved")
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()} | {
        "model__width": "512",
        "model__depth": "3",
        "data__path": str(write_text(folder / "input.txt")),
        "data__global_batch_size": "4",
        "train__steps": "1",
        "optimizer__schedule": "constant",
        "optimizer__warmup_steps": "0",
    }
    verb = ("train.py", "--config=configs/shakespeare_char.py", f"--workdir={folder / 'run'}")
    run(*verb, **fields)
    return verb, folder / "run", fields


def resume(saved, step: int, hosts: int, **mesh: str) -> list[dict]:
    """Resumes the run for one step; returns what each host measured."""
    verb, _, fields = saved
    script, *arguments = command(*verb, **fields | mesh | {"train__steps": str(step)})[1:]
    assert script.endswith("train.py")
    measured = [sys.executable, str(ROOT / "tests" / "full" / "measured_resume.py"), *arguments]
    return [json.loads(errors.splitlines()[-1]) for _, errors in on_hosts(hosts, measured)]


CASES = [(1, {}), (2, {"mesh__data": "2"}), (4, {"mesh__fsdp": "4"}), (4, {"mesh__data": "4"})]


@pytest.mark.parametrize(("hosts", "mesh"), CASES)
def test_each_host_reads_its_share_and_holds_one_state(saved, hosts, mesh):
    step = 2 + CASES.index((hosts, mesh))
    workdir = saved[1]
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    size = sum(
        entry[0] for entry in verify(workdir / "checkpoints" / str(newest))["files"].values()
    )
    assert size > 60 << 20
    for found in resume(saved, step, hosts, **mesh):
        print(hosts, mesh, size, found)
        assert found["equal"]
        assert found["verify"] < size / hosts + (16 << 20) + SLACK  # A piece is not divided.
        assert found["restore"] < 1.1 * size / hosts + SLACK
        assert found["peak"] < 1.25 * found["state"] + BESIDES  # Two states would be more.
