"""A signal is a wish that the loop grants at its next step; a second one is obeyed at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training import stop_signals
from training.stop_signals import Stopped, StopSignals

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds: what is waited for comes at once, unless the machine is busy
LOOP = """
import sys, time
from training.stop_signals import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    while not ("{stops}" and signals.received):
        time.sleep(0.01)
    print(signals.received, flush=True)
"""
# One call into C of many minutes, during which the main thread runs no handler, as a compilation.
LONG_CALL = """
import hashlib
from training.stop_signals import StopSignals
with StopSignals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def start(script: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for(signals: StopSignals) -> str | None:
    until = time.monotonic() + PATIENCE
    while signals.received is None and time.monotonic() < until:
        time.sleep(0.001)
    return signals.received


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_told_and_left_to_the_loop(kind, capfd):
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), kind)
        assert wait_for(signals) == kind.name
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == (
        f"{kind.name}: saving at the end of this step, then stopping; once more to stop at once\n"
    )


def test_the_loop_ends_by_its_own_will():
    process = start(LOOP.format(stops="yes"))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "SIGTERM\n")
    assert "SIGTERM: saving" in err


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(kind):
    process = start(LOOP.format(stops=""))
    process.send_signal(kind)
    assert "saving at the end of this step" in process.stderr.readline()
    time.sleep(stop_signals.COPY_SECONDS + 0.1)
    process.send_signal(kind)
    assert process.wait(timeout=PATIENCE) == 128 + kind
    assert "at once" in process.communicate()[1]


def test_both_promises_hold_during_one_long_call_into_c():
    process = start(LONG_CALL)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "SIGINT: saving" in process.stderr.readline()
    time.sleep(stop_signals.COPY_SECONDS + 0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 128 + signal.SIGINT
    process.communicate()


def test_a_copy_of_the_same_signal_is_no_second_one(monkeypatch):
    monkeypatch.setattr(stop_signals, "COPY_SECONDS", 3600.0)
    with StopSignals() as signals:
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(signals)


def test_another_kind_of_signal_is_no_second_one(capfd):
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(signals)
        time.sleep(stop_signals.COPY_SECONDS + 0.1)
        signal.raise_signal(signal.SIGTERM)  # seen when it returns, and told before the end
        assert signals.received == "SIGINT"
    assert "SIGTERM: saving" in capfd.readouterr().err


def test_a_block_that_may_be_left_is_left_at_once_and_cleans_up_undisturbed():
    with StopSignals() as signals:
        cleaned_up = False
        with pytest.raises(Stopped), signals.interrupting():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(PATIENCE)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned_up = True
        assert cleaned_up and signals.received == "SIGTERM"
        with pytest.raises(Stopped), signals.interrupting():
            pytest.fail("a signal has come before")
        signal.raise_signal(signal.SIGTERM)  # and does nothing behind the block


def test_what_is_promised_changes_on_the_way(capfd):
    with StopSignals(promise="stopping before the first step") as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(signals)
        signals.promise = "saving"
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + PATIENCE
        told = ""
        while "SIGINT" not in told and time.monotonic() < until:
            told += capfd.readouterr().err
    assert told == (
        "SIGTERM: stopping before the first step; once more to stop at once\n"
        "SIGINT: saving; once more to stop at once\n"
    )


def test_the_handlers_of_before_are_restored():
    before = [signal.getsignal(kind) for kind in stop_signals.SIGNALS]
    with pytest.raises(RuntimeError), StopSignals():
        assert [signal.getsignal(kind) for kind in stop_signals.SIGNALS] != before
        raise RuntimeError
    assert [signal.getsignal(kind) for kind in stop_signals.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "stop-signals" not in [thread.name for thread in threading.enumerate()]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, ours)
