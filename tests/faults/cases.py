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
from typing import NamedTuple

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


started: list[subprocess.Popen] = []
"""The processes of the running test."""


class Outcome(NamedTuple):
    """How a run ended: the hash of all arrays of its last step, and by step the hashes of its
    batches and the losses."""

    arrays: str
    batches: list[int]
    losses: list[float]


class Host(NamedTuple):
    """Where a process of a run is: the variables that say its place in the run, and the command
    that starts others there."""

    variables: Mapping[str, str]
    prefix: Sequence[str] = ()


class Case:
    """A run in a workdir of its own, to which faults happen.

    say(text): notes what was done, or found.
    undisturbed(): returns the outcome of the run without faults.
    devices: number of devices of each process.
    skipped: steps whose batches the run skips.

    `variables`: environment variables for all processes of the run. `prefix`: a command that starts
    another one, `nice` or the like, for all of them.
    """

    devices = 1
    skipped: Sequence[int] = ()

    def __init__(
        self,
        workdir: Path,
        fields: Mapping[str, str],
        say: Callable[[str], None],
        undisturbed: Callable[[], Outcome],
        recipe: str = RECIPE,
    ):
        self.workdir, self.say, self.recipe = workdir, say, recipe
        self.fields, self.undisturbed = dict(fields), undisturbed
        self.variables: dict[str, str] = {}
        self.prefix: list[str] = []

    def start(
        self,
        faults: str = "",
        *,
        devices: int | None = None,
        host: Host | None = None,
        variables: Mapping[str, str] | None = None,
        **more: str,
    ) -> subprocess.Popen:
        """Starts train.py with `faults`, as `faulty.py` takes them; `more`: further fields, with
        `__` for the dot."""
        host = host or Host({})
        fields = self.fields | {name.replace("__", "."): value for name, value in more.items()}
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        command = [*self.prefix, *host.prefix, sys.executable]
        command += [str(ROOT / "tests" / "faults" / "faulty.py"), faults]
        process = subprocess.Popen(
            [*command, self.recipe, f"--workdir={self.workdir}", *overrides],
            cwd=ROOT,
            env=environment(devices or self.devices)
            | self.variables
            | dict(variables or {})
            | dict(host.variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    def run(
        self,
        faults: str = "",
        *,
        expect: int = 0,
        devices: int | None = None,
        variables: Mapping[str, str] | None = None,
        **more: str,
    ) -> str:
        """Runs train.py to its end, checks the exit status, and returns standard error."""
        began = time.monotonic()
        process = self.start(faults, devices=devices, variables=variables, **more)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == expect, f"status {process.returncode}\n{errors}"
        what = faults or "nothing disturbs it"
        if expect == 2:
            what = f"{what} ({errors.splitlines()[-1]})"
        self.say(f"{what}: status {expect} after {time.monotonic() - began:.0f} s")
        return errors

    def run_on_two_hosts(
        self,
        faults: Sequence[str] = ("", ""),
        *,
        expect: Sequence[int] = (0, 0),
        hosts: Sequence[Host] | None = None,
        **more: str,
    ) -> list[str]:
        """Runs train.py as two processes of one device each, with faults for each of them. Checks
        their statuses, and returns what both wrote to standard error.

        hosts: where they are; by default, both on this machine.

        A process that stands still, which no signal but one ends, is killed once the other one has
        ended; its status is then that of SIGKILL.
        """
        began, hosts = time.monotonic(), hosts or two_hosts()
        processes = [self.start(faults[n], host=hosts[n], **more) for n in range(2)]
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
        other = Case(
            self.workdir.with_name(name), self.fields, self.say, self.undisturbed, self.recipe
        )
        other.devices, other.skipped = self.devices, self.skipped
        return other

    def compare_with(self, other: "Case") -> None:
        """Takes the outcome of `other` for that of the run without faults."""
        found = other.outcome()
        self.undisturbed = lambda: found

    def outcome(self) -> Outcome:
        """Returns how this run ended."""
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
        found, expected = self.outcome(), self.undisturbed()
        assert found.batches == expected.batches, "it read other batches"
        assert found.arrays == expected.arrays, "its arrays differ"
        count = len(found.batches)
        self.say(f"went on from {first} and {second}; arrays and {count} batches are equal")


def once_undisturbed(
    workdir: Path, fields: Mapping[str, str], recipe: str = RECIPE
) -> Callable[[], Outcome]:
    """Returns a function that gives the outcome of a run without faults, which runs once."""
    found: list[Outcome] = []

    def undisturbed() -> Outcome:
        if not found:
            Case(workdir, fields, lambda text: None, undisturbed, recipe).run()
            found.append(outcome(workdir))
        return found[0]

    return undisturbed


def outcome(workdir: Path, skipped: Sequence[int] = ()) -> Outcome:
    """Returns how the run in `workdir` ended, which has done all its steps. skipped: steps whose
    batches are skipped."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays_of(workdir, STEPS).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    lines = metrics(workdir)
    assert list(lines) == [step for step in range(1, STEPS + 1) if step not in skipped]
    batches = [line["batch_crc32"] for line in lines.values()]
    return Outcome(digest.hexdigest(), batches, [line["loss"] for line in lines.values()])


def assert_is_clean(workdir: Path) -> None:
    """Checks that no half-written step and no temporary file is left."""
    left = [
        str(path)
        for path in workdir.rglob("*")
        if re.search(r"\.removing$|orbax-checkpoint-tmp|\.writing$", path.name)
    ]
    assert not left, f"left behind: {left}"
    assert (workdir / "lock").read_bytes() == b""


def two_hosts() -> list[Host]:
    """Returns two hosts that are this machine, and meet at a free port of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [Host(variables) for variables in two_places(address)]


def two_places(address: str) -> list[dict[str, str]]:
    """Returns the variables of two processes that meet at `address`."""
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [shared | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits until `condition` holds; fails if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"status {process.returncode}\n{process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
