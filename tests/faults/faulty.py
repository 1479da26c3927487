"""Runs train.py with a fault: python faulty.py POINT=ACTION[,POINT=ACTION...] ARGUMENTS

POINT is a place in a run, `step:7` or `compiling`; ACTION is what happens there, once; or what is
wrong with values there, in each of the steps (`batch:7-9=nan`, `wrong_values.py`). The product has
no code for faults: functions that a run calls are wrapped here.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

Act = Callable[[], None]


def hang() -> None:
    while True:
        time.sleep(1000)


def hang_for_a_while() -> None:
    time.sleep(60)


def hang_locked() -> None:
    """Hangs in C, and keeps the lock of the interpreter."""
    ctypes.PyDLL(None).sleep(100_000)


def send(kind: signal.Signals, times: int = 1) -> Act:
    def act() -> None:
        for number in range(times):
            if number:
                time.sleep(1)  # Sooner, it would be a copy of the first one.
            os.kill(os.getpid(), kind)
        time.sleep(0.2)  # until the thread that reads signals has read it

    return act


def fail() -> None:
    raise OSError(5, "Input/output error", "a file of the test")


def leave() -> None:
    raise SystemExit(0)


def leave_at_once() -> None:
    os._exit(0)


def shell() -> None:
    subprocess.run(os.environ["FAULT_COMMAND"], shell=True, check=True)


def kill_reader() -> None:
    """Kills a process that makes batches."""
    multiprocessing.active_children()[0].kill()


def rename_layer() -> None:
    """Gives a layer of decoders another name, as later code may."""
    from model.decoder import Decoder

    make = Decoder.__init__

    def renamed(self, *arguments, **more):
        make(self, *arguments, **more)
        self.trunk = self.backbone
        del self.backbone

    Decoder.__init__ = renamed


ACTIONS: dict[str, Act] = {
    "kill": send(signal.SIGKILL),
    "stop": send(signal.SIGSTOP),
    "term": send(signal.SIGTERM),
    "int": send(signal.SIGINT),
    "int_twice": send(signal.SIGINT, times=2),
    "hang": hang,
    "hang_for_a_while": hang_for_a_while,
    "hang_locked": hang_locked,
    "fail": fail,
    "leave": leave,
    "leave_at_once": leave_at_once,
    "shell": shell,
    "kill_reader": kill_reader,
    "rename_layer": rename_layer,
}


def before(owner: Any, name: str, act: Act, when: Callable[..., bool]) -> None:
    """Wraps a function: `act` comes before its first call for which `when` holds."""
    function, done = getattr(owner, name), []

    def wrapped(*arguments, **more):
        if not done and when(*arguments, **more):
            done.append(True)
            act()
        return function(*arguments, **more)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, act: Act, when: Callable[..., bool]) -> None:
    """Wraps a function: `act` comes after its first call for which `when` holds."""
    function, done = getattr(owner, name), []

    def wrapped(*arguments, **more):
        result = function(*arguments, **more)
        if not done and when(*arguments, **more):
            done.append(True)
            act()
        return result

    setattr(owner, name, wrapped)


def always(*arguments, **more) -> bool:
    return True


def at(step: int) -> Callable[..., bool]:
    """Whether the step is the first argument of a method, or the folder or the store of that step
    of a function."""

    def holds(*arguments, **more) -> bool:
        first, *others = arguments
        if url := getattr(first, "url", None):
            return url.endswith(f"/{step}")
        return first.name == str(step) if isinstance(first, Path) else others[0] == step

    return holds


def deleted(step: int) -> Callable[..., bool]:
    """Whether the first argument is a step of a store which had a manifest."""

    def holds(store) -> bool:
        return at(step)(store) and len(store.list()) > 2 and "manifest.json" not in store.list()

    return holds


def put(point: str, act: Act) -> None:
    """Puts the fault `act` at `point`."""
    import data.batches
    import data.driver
    import parallel.distributed
    import reporting.evaluator
    import reporting.progress
    import reporting.run_log
    import reporting.step_log
    import training.checkpoints
    import training.mirror
    import training.remote_steps
    import training.resume

    name, _, number = point.partition(":")
    step = int(number or 0)
    checkpoints = training.checkpoints.Checkpoints
    match name:
        case "start":
            act()
        case "meeting":
            before(parallel.distributed, "initialize_distributed", act, always)
        case "joined":
            after(parallel.distributed, "initialize_distributed", act, always)
        case "preparing":
            before(data.driver.Preparation, "write", act, always)
        case "prepared":
            after(data.driver.Preparation, "write", act, always)
        case "restoring":
            before(training.resume, "resumed_state", act, always)
        case "compiling":
            before(reporting.progress.Progress, "compiling", act, always)
        case "reading":  # the batch of `step`
            before(data.batches.Batches, "__getitem__", act, at(step - 1))
        case "step":  # it is running, or done
            before(reporting.step_log.StepLog, "push", act, at(step))
        case "logged":
            after(reporting.run_log.RunLog, "write", act, at(step))
        case "saving":  # the state is copied next
            before(checkpoints, "save", act, at(step))
        case "begun":  # the state is copied, and is written in the background
            after(checkpoints, "save", act, at(step))
        case "writing":  # in the background
            before(checkpoints, "_finish", act, at(step))
        case "hashing":  # all files are there but the manifest
            before(training.checkpoints, "write_manifest", act, at(step))
        case "saved":  # older steps are not deleted yet
            after(training.checkpoints, "write_manifest", act, at(step))
        case "gone_back":  # to an earlier checkpoint, and recorded it
            after(reporting.run_log.RunLog, "go_back_to", act, always)
        case "deleting":  # the older step `step`
            before(training.checkpoints, "remove_step", act, at(step))
        case "mirroring":  # nothing of the step is in the mirror
            before(training.mirror, "upload_step", act, at(step))
        case "in_mirror":  # all its files are there but the manifest
            before(training.remote_steps, "verify_remote", act, at(step))
        case "mirrored":  # the manifest is there, and what the run has deleted too
            after(training.mirror, "upload_step", act, at(step))
        case "unmirroring":  # the older step `step`
            before(training.mirror, "remove_remote_step", act, at(step))
        case "unmirrored":  # its manifest is deleted, and its files are not
            before(training.remote_steps, "clean", act, deleted(step))
        case "finishing":
            before(reporting.evaluator.Evaluator, "finish", act, always)
        case _:
            raise ValueError(f"there is no point {point}")


if __name__ == "__main__":
    import train
    from configs.reading.command_line import run_verb
    from tests.faults import wrong_values

    _, faults, *arguments = sys.argv
    for fault in filter(None, faults.split(",")):
        place, _, action = fault.partition("=")
        if action in ACTIONS:
            put(place, ACTIONS[action])
            continue
        place, _, steps = place.partition(":")
        begin, _, end = steps.partition("-")
        wrong_values.put(place, range(int(begin), int(end or begin) + 1), action)
    sys.argv = ["train.py", *arguments]
    with contextlib.suppress(AttributeError):
        sys.modules["__main__"].__doc__ = train.__doc__
    run_verb(train.main)
