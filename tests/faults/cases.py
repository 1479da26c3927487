"""What the cases of the fault suite share: runs with a fault, and the run that had none.

The oracle: after a fault, the run is resumed twice. Then all its arrays and the hashes of all its
batches must be those of the run that was never disturbed.
"""

import hashlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from benchmarks.gpu_training import arrays_of
from reporting.event_log import read_events
from tests.end_to_end.verbs import ROOT, TINY_TEXT, environment, metrics
from training.checkpoints import finished_steps

STEPS, EVERY = 18, 3
PATIENCE = 500
"""Seconds. What is waited for comes soon, unless the machine is busy."""

FIELDS = {name: value for name, value in TINY_TEXT.items() if name != "task.sample_tokens"} | {
    "model.width": "16",
    "model.depth": "1",
    "model.dropout": "0.1",
    "data.global_batch_size": "4",
    "train.steps": str(STEPS),
    "checkpoint.every_steps": str(EVERY),
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": "0",
    "task.sample_prompts": "()",
}
HANG_SECONDS = 25
"""For runs that are to hang: longer than each part of such a small run takes."""

RECIPE = "--config=configs/shakespeare_char.py"
KILLED, STOPPED, STALLED, CORRUPTED = -signal.SIGKILL, 75, 14, 76


class Case:
    """A run in a workdir of its own, to which faults happen.

    say(text): notes what was done, or found.
    undisturbed(): returns the outcome of the run without faults.
    devices: number of devices of each process.
    skipped: steps whose batches the run skips.
    """

    devices = 1
    skipped: Sequence[int] = ()

    def __init__(
        self,
        workdir: Path,
        fields: Mapping[str, str],
        say: Callable[[str], None],
        undisturbed: Callable[[], tuple[str, list[int]]],
    ):
        self.workdir, self.say = workdir, say
        self.fields, self._undisturbed = dict(fields), undisturbed

    def start(
        self, faults: str = "", *, place: Mapping[str, str] | None = None, **more: str
    ) -> subprocess.Popen:
        """Starts train.py with `faults`, as `faulty.py` takes them; `more`: further fields, with
        `__` for the dot; `place`: the variables of a process among several."""
        fields = self.fields | {name.replace("__", "."): value for name, value in more.items()}
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        script = str(ROOT / "tests" / "faults" / "faulty.py")
        return subprocess.Popen(
            [sys.executable, script, faults, RECIPE, f"--workdir={self.workdir}", *overrides],
            cwd=ROOT,
            env=environment(self.devices) | dict(place or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, faults: str = "", *, expect: int = 0, **more: str) -> str:
        """Runs train.py to its end, checks the exit status, and returns standard error."""
        began = time.monotonic()
        process = self.start(faults, **more)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == expect, f"status {process.returncode}\n{errors}"
        what = faults or "nothing disturbs it"
        self.say(f"{what}: status {expect} after {time.monotonic() - began:.0f} s")
        return errors

    def run_on_two_hosts(
        self, faults: Sequence[str] = ("", ""), *, expect: Sequence[int] = (0, 0), **more: str
    ) -> list[str]:
        """Runs train.py as two processes of one device each, with faults for each of them. Checks
        their statuses, and returns what both wrote to standard error.

        A process that stands still, which no signal but one ends, is killed once the other one has
        ended; its status is then that of SIGKILL.
        """
        began, places = time.monotonic(), two_places()
        processes = [self.start(faults[n], place=places[n], **more) for n in range(2)]
        with ThreadPoolExecutor(2) as pool:  # Both are read, so that none waits for it.
            reading = [pool.submit(one.communicate, timeout=PATIENCE) for one in processes]
            for n in (0, 1):
                if "=stop" in faults[n]:
                    wait([reading[1 - n]])
                    processes[n].kill()
            errors = [one.result()[1] for one in reading]
        statuses = [process.returncode for process in processes]
        shown = "\n\n".join(errors)
        assert statuses == [*expect], f"statuses {statuses}\n{shown}"
        what = ", ".join(f"process {n} {one or 'undisturbed'}" for n, one in enumerate(faults))
        self.say(f"{what}: statuses {statuses} after {time.monotonic() - began:.0f} s")
        return errors

    @property
    def saved(self) -> int:
        """The newest step that counts as saved; 0 if there is none."""
        return max(finished_steps(self.workdir / "checkpoints"), default=0)

    def events(self) -> list[tuple[str, int]]:
        return [(event["event"], event["step"]) for event in read_events(self.workdir)]

    def sibling(self, name: str) -> "Case":
        """Returns a case like this one in another workdir, which nothing has disturbed yet."""
        other = Case(self.workdir.with_name(name), self.fields, self.say, self._undisturbed)
        other.devices, other.skipped = self.devices, self.skipped
        return other

    def compare_with(self, other: "Case") -> None:
        """Takes the outcome of `other` for that of the run without faults."""
        found = other.outcome()
        self._undisturbed = lambda: found

    def outcome(self) -> tuple[str, list[int]]:
        return outcome(self.workdir, self.skipped)

    def resumes_twice(self, faults: str = "") -> None:
        """Resumes the run, stops it on the way, resumes it again, and compares it with the run that
        was never disturbed. faults: those that do not go away."""
        first = self.saved
        steps = [step for step in range(first + 2, STEPS) if step not in self.skipped]
        stop = f"step:{min([*steps, STEPS - 1])}=term"
        self.run(",".join(filter(None, (faults, stop))), expect=STOPPED)
        second = self.saved
        assert first < second < STEPS
        self.run(faults)
        assert_is_clean(self.workdir)
        arrays, batches = self.outcome()
        expected_arrays, expected_batches = self._undisturbed()
        assert batches == expected_batches, "it read other batches"
        assert arrays == expected_arrays, "its arrays differ"
        self.say(f"went on from {first} and {second}; arrays and {len(batches)} batches are equal")


def outcome(workdir: Path, skipped: Sequence[int] = ()) -> tuple[str, list[int]]:
    """Returns the hash of all arrays of the last step, and that of each batch. skipped: steps whose
    batches are skipped."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays_of(workdir, STEPS).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    lines = metrics(workdir)
    assert list(lines) == [step for step in range(1, STEPS + 1) if step not in skipped]
    return digest.hexdigest(), [line["batch_crc32"] for line in lines.values()]


def assert_is_clean(workdir: Path) -> None:
    """Checks that no half-written step and no temporary file is left."""
    left = [
        str(path)
        for path in workdir.rglob("*")
        if re.search(r"\.removing$|orbax-checkpoint-tmp|\.writing$", path.name)
    ]
    assert not left, f"left behind: {left}"
    assert (workdir / "lock").read_bytes() == b""


def two_places() -> list[dict[str, str]]:
    """Returns the variables of two processes that meet at a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [shared | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits until `condition` holds; fails if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"status {process.returncode}\n{process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
