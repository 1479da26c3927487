"""Cuts the power of a run's disk, again and again, and checks from which step the run resumes.

python benchmarks/power_cuts.py [--cuts=20] [--seed=0]

The workdir and the prepared data are on their own file system (ext4 on a loop device). The kernel
simulates the power cut (FS_IOC_SHUTDOWN without a flush): whatever was not synced is lost. Each
time, a run is cut off at a random moment after a save. It must resume from a step that is at most
one save older than the newest step finished before the cut. All cuts use the same workdir. Needs
Linux, root and mkfs.ext4.
"""

import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import overrides, start_verb
from configs.reading.command_line import Flag, parse_command_line, run_verb

FLAGS = (
    Flag("cuts", "how often the power is cut", type=int, default=20, minimum=1),
    Flag("seed", "of the random moments", type=int, default=0),
)
FS_IOC_SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # linux/fs.h: _IOR('X', 125, __u32); ext4.h
EVERY_STEPS = 5
SETTINGS = {
    "model.width": "32",
    "model.depth": "2",
    "data.sequence_length": "16",
    "data.global_batch_size": "8",
    "optimizer.schedule": "constant",
    "train.steps": "1000000",
    "train.evaluate_every_steps": "1000000",
    "checkpoint.every_steps": str(EVERY_STEPS),
    "task.sample_prompts": "()",
}
PATIENCE = 300
"""Timeout in seconds for a save, and for a resume; on a busy machine, a start takes long."""


class Disk:
    """An ext4 file system in a file, whose power can be cut. Raises OSError if it can't be created.

    `folder` is its mount point.
    """

    def __init__(self, home: Path, megabytes: int = 256):
        self._image, self.folder = home / "disk.img", home / "disk"
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        _do("mkfs.ext4", "-q", "-F", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount the file system. The kernel then replays its journal."""
        _do("mount", "-o", "loop", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Unmount the file system, if it is mounted. Raises OSError if it stays busy."""
        for _ in range(100):  # The kernel closes a killed process's files later.
            if not os.path.ismount(self.folder):
                return
            subprocess.run(["umount", str(self.folder)], check=False, capture_output=True)
            time.sleep(0.1)
        raise OSError(f"{self.folder} can't be unmounted")

    def cut_power(self) -> None:
        """Shut down the file system at once: whatever was not synced is lost."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)


@contextmanager
def disk() -> Iterator[Disk]:
    """Yield a disk in a temporary folder. Raises OSError without root, mkfs.ext4 or loop
    devices."""
    if shutil.which("mkfs.ext4") is None or os.geteuid() != 0:
        raise PermissionError("root and mkfs.ext4 are needed")
    with tempfile.TemporaryDirectory() as home:
        made = Disk(Path(home))
        try:
            yield made
        finally:
            made.unmount()


def cut_and_resume(made: Disk, text: Path, moments: random.Random) -> tuple[int, int]:
    """Train on the disk, cut its power after a save, and resume.

    Returns the newest step finished before the cut, and the step from which the run resumed.

    text: the training text, a file outside the disk.
    moments: draws the time of the cut.

    Raises RuntimeError if the run does not save or resume.
    """
    workdir = made.folder / "run"
    with _training(made, text) as process:
        first = newest(workdir)
        deadline = time.monotonic() + PATIENCE
        while newest(workdir) == first:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no step was saved: status {process.poll()}")
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 2))
        # Read before the cut: later, a newer step may be finished, too.
        finished = newest(workdir)
        made.cut_power()
    made.unmount()
    made.mount()
    with _training(made, text, log := made.folder.parent / "errors.txt") as process:
        deadline, found = time.monotonic() + PATIENCE, None
        while found is None:
            found = re.search(r"going on from checkpoint (\d+)", log.read_text())
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not go on:\n{log.read_text()}")
            time.sleep(0.05)
    return finished, int(found[1])


@contextmanager
def _training(made: Disk, text: Path, log: Path | None = None) -> Iterator[subprocess.Popen]:
    """Start a run on the disk; kill it when the context ends."""
    command = ("train.py", "--config=configs/shakespeare_char.py", f"--workdir={made.folder}/run")
    fields = overrides(SETTINGS | {"data.path": text})
    how = {"environment": {"TRIFORM_CACHE": made.folder / "cache"}, "stdout": subprocess.DEVNULL}
    with (log or Path(os.devnull)).open("w") as errors:
        process = start_verb(*command, *fields, **how, stderr=errors)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def newest(workdir: Path) -> int:
    """Return the newest step with a manifest; -1 if there is none."""
    found = (path.parent.name for path in workdir.glob("checkpoints/*/manifest.json"))
    return max((int(name) for name in found if name.isdecimal()), default=-1)


def _do(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def main(argv: Sequence[str]) -> int:
    """Print a line for each cut. Return 1 if a run lost more than one save, else 0."""
    arguments = parse_command_line(argv, FLAGS)
    moments, good = random.Random(arguments.seed), 0
    with disk() as made:
        text = made.folder.parent / "input.txt"
        text.write_text("".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400)))
        for number in range(1, arguments.cuts + 1):
            finished, resumed = cut_and_resume(made, text, moments)
            good += resumed >= finished - EVERY_STEPS
            print(f"cut {number}: step {finished} was finished, went on from {resumed}", flush=True)
    print(f"{good} of {arguments.cuts} runs went on from a step at most one save old")
    return int(good < arguments.cuts)


if __name__ == "__main__":
    run_verb(main)
