"""Grammars are compiled on trial in a process that nothing but a grammar ends for long."""

import os
from pathlib import Path

from inference.engine.trial_compilation import _Trials


def test_a_process_that_ended_while_idle_is_started_again(monkeypatch):
    monkeypatch.setenv("TRIFORM_TOKEN", "secret")
    trials = _Trials()
    assert trials.error('start: "a"') == ""
    first = trials._process
    assert os.getsid(first.pid) == first.pid  # Ctrl-C in the terminal does not reach it.
    environment = Path(f"/proc/{first.pid}/environ")
    assert not environment.exists() or b"secret" not in environment.read_bytes()
    first.kill()
    first.wait()
    assert trials.error('start: "b"') == ""
    assert "unknown name" in trials.error("start: missing")
    assert trials._process is not first
    trials._process.kill()
    trials._process.wait()
