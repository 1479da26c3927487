"""Stores the checks and measurements of one part of `gpu_run.py` in a file."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.files import write_durably


class Failed(Exception):
    """Raised if a check fails; the message says why."""


def expect(condition: object, text: str) -> None:
    """Raise `Failed` with the message `text` unless the condition holds."""
    if not condition:
        raise Failed(text)


@dataclass
class Findings:
    """The checks and measurements of one part. They are written to `file` after every change.

    toy: whether to use small models, on any device.
    text: the file to train on; None for the sources of Python's standard library.
    target_loss: the loss to reach in training; None for the default of the text.
    folder: an empty folder for the part's own files.
    torch: whether to measure PyTorch too.
    """

    file: Path
    folder: Path
    toy: bool = False
    torch: bool = False
    text: str | None = None
    target_loss: float | None = None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, function: Callable[[], str]) -> None:
        """Run a check, and store the text that it returns or the error that it raises."""
        began = time.monotonic()
        try:
            passed, text = True, function()
        except Failed as failed:
            passed, text = False, str(failed)
        except Exception as error:
            traceback.print_exc()
            passed, text = False, f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - began, 1)
        self.checks[name] = {"passed": passed, "seconds": seconds, "found": text}
        print(f"{'ok' if passed else 'FAILED'}  {name}: {text} ({seconds:.0f} s)", flush=True)
        self._write()

    def note(self, **figures: Any) -> None:
        """Store measurements, by name."""
        self.figures |= figures
        self._write()

    @property
    def passed(self) -> bool:
        return all(check["passed"] for check in self.checks.values())

    def _write(self) -> None:
        content = {"checks": self.checks, "figures": self.figures}
        write_durably(self.file, json.dumps(content))
