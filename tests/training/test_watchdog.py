"""A process in which nothing moves ends, and says where each thread stands."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from training.watchdog import STALLED, Watchdog

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds: what is waited for comes at once, unless the machine is busy
HANGING = """
import ctypes, sys, time
from training.watchdog import Watchdog

def hang():
    {how}

with Watchdog(1, lambda text: print(text, flush=True)) as watchdog:
    watchdog.beat("step 12")
    hang()
"""
WITHOUT_LOCK = "time.sleep(1000)"
WITH_LOCK = "ctypes.PyDLL(None).sleep(1000)"  # a call into C that keeps the interpreter lock


def end_of(script: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def timer() -> float:
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_a_hanging_process_ends_with_its_own_status_and_the_stacks_of_all_threads():
    done = end_of(HANGING.format(how=WITHOUT_LOCK))
    assert (done.returncode, done.stdout) == (STALLED, "step 12\n")
    assert STALLED == 14  # as the documents say
    assert "in hang" in done.stderr and "in _watch" in done.stderr


def test_so_does_one_that_holds_the_lock_of_the_interpreter():
    done = end_of(HANGING.format(how=WITH_LOCK))
    assert (done.returncode, done.stdout) == (STALLED, "")
    assert "in hang" in done.stderr


def test_a_report_that_hangs_too_does_not_keep_it():
    script = HANGING.format(how=WITHOUT_LOCK).replace(
        "with Watchdog(1, lambda text: print(text, flush=True))",
        "import training.watchdog\n"
        "training.watchdog.REPORT_SECONDS = 1\n"
        "with Watchdog(1, lambda text: time.sleep(1000))",
    )
    done = end_of(script)
    assert done.returncode == STALLED
    assert "in hang" in done.stderr


def test_nobody_who_reads_the_stacks_does_not_keep_it():
    fills_the_pipe = "import os; os.write(2, bytes(65536)); time.sleep(1000)"
    script = HANGING.format(how=fills_the_pipe).replace(
        "with Watchdog",
        "import training.watchdog\ntraining.watchdog._STUCK_SECONDS = 1\nwith Watchdog",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    with process.stderr:
        assert process.wait(timeout=PATIENCE) == STALLED


def test_each_beat_gives_the_whole_time_again():
    with Watchdog(1000, pytest.fail) as watchdog:
        assert timer() == 0
        watchdog.beat("step 1")
        first = timer()
        while timer() > first - 0.01:
            pass
        watchdog.beat("step 2")
        assert first - 0.01 < timer() <= 1001
        while timer() > first - 0.01:
            pass
        watchdog.beat_again()
        assert timer() > first - 0.01


def test_nothing_is_watched_before_the_first_beat_nor_without_a_limit():
    with Watchdog(1000, pytest.fail) as watchdog:
        watchdog.beat_again()
        assert timer() == 0
    with Watchdog(None, pytest.fail) as watchdog:
        watchdog.beat("step 1")
        assert timer() == 0


def test_handler_and_timer_of_before_are_restored():
    caught = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))
    timer_before = signal.setitimer(signal.ITIMER_REAL, 500)
    try:
        with pytest.raises(RuntimeError), Watchdog(1000, pytest.fail) as watchdog:
            watchdog.beat("step 1")
            raise RuntimeError
        assert 400 < timer() <= 500
        signal.raise_signal(signal.SIGALRM)
        assert caught == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer_before)
        signal.signal(signal.SIGALRM, before)
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
