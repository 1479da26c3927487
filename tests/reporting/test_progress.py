"""What a run shows: a bar on a terminal, few plain lines elsewhere, nothing on standard output."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reporting import progress as module
from reporting.progress import Progress

ROOT = Path(__file__).parents[2]
RATES = {"step_seconds": 0.01, "tokens_per_second": 12400.0}
VALIDATION = {"examples": 4, "loss": 1.9, "perplexity": 6.69, "accuracy": 0.45}
RUN = """
import sys, time
from reporting.progress import Progress
progress = Progress()
progress.preparation("tokenising", 1, 2, "files")
progress.preparation("tokenising", 2, 2, "files")
progress.start(total=40, first_step=20)
with progress.compiling("the train step"):
    time.sleep(0.6)
for step in range(21, 41):
    progress.update(step, {"loss": 40.0 / step, "examples_per_second": 1234.0})
    time.sleep(0.02)
    if step == 30:
        progress.note("[bold]a path/with/brackets[/bold] " + "long " * 30)
        progress.validation(step, {"loss": 1.9, "accuracy": 0.978})
        print("a warning of a library", file=sys.stderr)
        print("a result")
progress.stop()
"""


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so: `clock[0] += 5`."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def on_a_terminal(script: str) -> tuple[str, str]:
    """(standard output, what the terminal got on standard error)."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # The end of a terminal is an error on Linux.
        pass
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.decode(), shown.decode()


def test_a_terminal_shows_a_bar_and_keeps_standard_output_clean():
    out, shown = on_a_terminal(RUN)
    assert out == "a result\n"
    for text in (
        "tokenising: 2 files in",
        "compiling the train step",
        "step 40/40",
        "loss 1.0000 · 1,234 examples/s · validation accuracy 97.8 %",
        "[bold]a path/with/brackets[/bold] long long",
        "step 30: validation loss 1.9000, accuracy 97.8 %",
        "a warning of a library",
    ):
        assert text in shown
    seconds = re.search(r"compiled the train step in ([\d.]+) s", shown)
    assert float(seconds[1]) >= 0.6
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"


def test_without_a_terminal_every_line_is_plain(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    exec(RUN.replace("0.6", "0"), {})
    told = capfd.readouterr()
    assert told.out == "a result\n"
    assert "\x1b" not in told.err and "\r" not in told.err
    lines = told.err.splitlines()
    assert lines[0] == "tokenising: 1/2 files"
    assert lines[1].startswith("tokenising: 2 files in ")
    assert lines[2] == "compiling the train step"
    assert lines[3].startswith("compiled the train step in ")
    assert lines[4] == "[bold]a path/with/brackets[/bold] " + "long " * 30


def test_plain_lines_come_of_logged_steps_every_five_seconds(capfd, clock):
    progress = Progress()
    progress.start(total=1000, first_step=0)
    for step in range(1, 1001):
        clock[0] += 0.125
        progress.update(step, {"loss": 2.0} | (RATES if step % 10 == 0 else {}))
    progress.stop()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("about 2 min 5 s for 1,000 steps at 0.12 s a step, evaluations and ")
    del lines[0]
    assert lines[0] == "step 10/1,000 · loss 2.0000 · 12,400 tokens/s · 2 min 4 s left"
    steps = [int(line.split("/")[0].removeprefix("step ").replace(",", "")) for line in lines]
    assert steps == [10, *range(50, 1000, 40), 1000]


def test_the_time_left_counts_from_where_a_run_goes_on(capfd, clock):
    progress = Progress()
    progress.start(total=1000, first_step=900)
    clock[0] += 60  # Compilation.
    progress.update(901, {"loss": 2.0})
    clock[0] += 9
    progress.update(910, {"loss": 2.0} | RATES)
    assert "1 min 30 s left" in capfd.readouterr().err


def test_how_long_a_run_takes_is_said_once_when_enough_steps_are_timed(capfd, clock):
    progress = Progress()
    progress.start(total=2100, first_step=100)
    for step in range(101, 131):
        clock[0] += 60 if step == 101 else 0.1  # Compilation.
        progress.update(step, {"loss": 2.0} | RATES)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("about")]
    assert told == [
        "about 3 min 20 s for 2,000 steps at 0.1 s a step, evaluations and checkpoints not counted"
    ]


def test_a_run_of_seconds_needs_no_estimate(capfd, clock):
    progress = Progress()
    progress.start(total=60, first_step=0)
    for step in range(1, 61):
        clock[0] += 0.1
        progress.update(step, {"loss": 2.0} | RATES)
    assert "about" not in capfd.readouterr().err


def test_evaluations_and_compilations_are_no_time_of_steps(capfd, clock):
    progress = Progress()
    progress.start(total=1000, first_step=0)
    progress.update(1, {"loss": 2.0})
    with progress.working("saving"):
        clock[0] += 100
        with progress.working("evaluating"):
            clock[0] += 200
    with progress.compiling("another shape"):
        clock[0] += 300
    clock[0] += 10
    progress.update(11, {"loss": 2.0} | RATES)
    told = capfd.readouterr().err
    assert "about 16 min 40 s for 1,000 steps at 1 s a step, evaluations and" in told
    assert "16 min 29 s left" in told


def test_every_validation_is_told_whole(capfd, clock):
    progress = Progress()
    progress.start(total=100, first_step=0)
    progress.validation(50, VALIDATION)
    progress.validation(51, VALIDATION | {"bits_per_byte": 1.5})
    progress.update(60, {"loss": 2.0} | RATES)
    assert capfd.readouterr().err.splitlines() == [
        "step 50: validation loss 1.9000, perplexity 6.69, accuracy 45.0 %",
        "step 51: validation loss 1.9000, perplexity 6.69, accuracy 45.0 %, 1.500 bits per byte",
        "step 60/100 · loss 2.0000 · 12,400 tokens/s · validation 1.500 bits per byte",
    ]


def test_preparation_tells_now_and_then_how_far_it_is(capfd, clock):
    progress = Progress()
    for done in range(1, 1001):
        clock[0] += 0.01
        progress.preparation("reading", done, 1000, "files")
    assert capfd.readouterr().err.splitlines() == [
        "reading: 1/1,000 files",
        "reading: 501/1,000 files · 5 s left",
        "reading: 1,000 files in 10 s",
    ]


def test_a_failed_compilation_is_not_called_done(capfd):
    progress = Progress()
    with pytest.raises(RuntimeError), progress.compiling("the train step"):
        raise RuntimeError
    assert capfd.readouterr().err == "compiling the train step\n"


def test_what_is_not_shown_is_silent_but_for_notes(capsys):
    progress = Progress(shown=False)
    progress.preparation("tokenising", 1, 2, "files")
    progress.preparation("tokenising", 2, 2, "files")
    with progress.compiling("the train step"):
        pass
    progress.start(total=2, first_step=0)
    progress.update(2, {"loss": 1.0, **RATES})
    progress.validation(2, VALIDATION)
    progress.note("a notice")
    progress.stop()
    assert capsys.readouterr() == ("", "a notice\n")
