"""The verbs as users run them: processes of their own, on as many devices as a test wants."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import generate
from configs.errors import UsageError

ROOT = Path(__file__).parents[2]

TINY_TEXT = {
    "model.width": "32",
    "model.depth": "2",
    "data.sequence_length": "16",
    "data.global_batch_size": "8",
    "train.steps": "40",
    "train.log_every_steps": "1",
    "train.log_batch_crc32": "true",
    "train.evaluate_every_steps": "1000",
    "checkpoint.every_steps": "10",
    "task.sample_tokens": "8",
    "optimizer.learning_rate": "1e-3",
}


def write_text(path: Path, lines: int = 400) -> Path:
    """A small text with something to learn in it."""
    sentences = [f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(lines)]
    path.write_text("".join(sentences), encoding="utf-8")
    return path


def command(verb: str, *arguments: str, **fields: str) -> list[str]:
    """The command line of a verb; `fields` are overrides with `__` for the dot."""
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return [sys.executable, str(ROOT / verb), *arguments, *overrides]


def environment(devices: int = 1) -> dict[str, str]:
    """This environment with `devices` virtual CPU devices."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(
    verb: str, *arguments: str, devices: int = 1, expect: int = 0, **fields: str
) -> subprocess.CompletedProcess:
    """Runs a verb to its end and checks its exit status."""
    done = subprocess.run(
        command(verb, *arguments, **fields),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == expect, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def metrics(workdir: Path) -> dict[int, dict[str, Any]]:
    """The training lines of metrics.jsonl by step, but for one that is being written."""
    whole, _, _ = (workdir / "metrics.jsonl").read_text().rpartition("\n")
    lines = whole.splitlines()
    return {line["step"]: line for line in map(json.loads, lines) if "loss" in line}


def answers_but_one(
    capsys: pytest.CaptureFixture[str], unread: str, of: int, *flags: str
) -> tuple[list[str], list[dict[str, Any]]]:
    """What generate.py answers to `of` inputs in this process, as lines and as objects, where one
    can't be read, of which `unread` is told."""
    printed = []
    for form in ((), ("--json",)):
        with pytest.raises(UsageError, match=f"^1 of {of} inputs could not be read$"):
            generate.main([*flags, *form])
        printed.append(capsys.readouterr())
        assert unread in printed[-1].err
    return printed[0].out.splitlines(), [*map(json.loads, printed[1].out.splitlines())]
