"""Runs all checks and speed measurements that need a GPU, with one command.

python benchmarks/gpu_run.py [--only=PART ...] [--out=FILE] [--budget_seconds=540] [--text=PATH]
    [--target_loss=LOSS] [--toy]                               (`make gpu-run PYTHON=python3`)

It needs no network and no data. Without --text, it trains on the sources of Python's standard
library. The parts run one after another, the most important first, each in its own process with a
time limit. If a part fails or runs out of time, the next one runs. After each part, all results are
written to FILE as one JSON object. Standard output gets a table for docs/results.md; standard error
gets progress messages.

If the same command runs again, on the same device and code, it keeps the parts that passed and runs
the others. --only runs the given parts even if they passed. --toy runs small versions of the parts
on CPU.

Exit status: 0 all these parts passed, 1 some did not, 2 a usage error or no GPU. Without PyTorch,
its columns stay empty, and a message says so.
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import bench_gpu
from benchmarks.findings import Findings
from benchmarks.measuring import ROOT
from configs.errors import UsageError
from configs.files import write_durably
from configs.reading.command_line import Flag, parse_command_line, run_verb
from reporting.report.machine import environment


@dataclass(frozen=True)
class Part:
    """One part: `module.function(findings, *arguments)` runs for at most `seconds`.

    kind: "check" or "speed".
    platforms: JAX_PLATFORMS of its process, unless --toy is given.
    """

    module: str
    function: str
    seconds: int
    kind: str
    platforms: str = "cuda"
    arguments: tuple[str, ...] = ()


def _speed(row: str, seconds: int) -> Part:
    return Part("benchmarks.bench_gpu", "measured", seconds, "speed", arguments=(row,))


PARTS: Mapping[str, Part] = {
    "training": Part("benchmarks.gpu_training", "training", 270, "check", "cpu"),
    "gpt2_124m": _speed("gpt2_124m", 180),
    "attention": Part("benchmarks.gpu_check", "attention", 120, "check", "cuda,cpu"),
    "parity": Part("benchmarks.gpu_check", "parity", 180, "check", "cuda,cpu"),
    "llama_1b": _speed("llama_1b", 180),
    "decode_1b_batch_1": _speed("decode_1b_batch_1", 150),
    "from_cpu": Part("benchmarks.gpu_training", "from_cpu", 120, "check", "cpu"),
    "lstm_2x650": _speed("lstm_2x650", 120),
    "decode_1b_batch_32": _speed("decode_1b_batch_32", 150),
}
"""The parts, in the order in which they run."""

KINDS = {"checks": "check", "speed": "speed"}
LEAST_SECONDS = 25
"""A part does not start if less time than this remains."""

LAST_LINES = 15
FLAGS = (
    Flag(
        "only",
        "a part to run, or all `checks`, or all of `speed`",
        repeatable=True,
        choices=(*PARTS, *KINDS),
        placeholder="PART",
    ),
    Flag("out", "the file of the figures", default="runs/gpu_run.json", placeholder="FILE"),
    Flag("budget_seconds", "for all parts together", type=int, default=540, minimum=1),
    Flag("text", "a text to train on", placeholder="PATH"),
    Flag("target_loss", "of held-out text, nats per character", type=float, placeholder="LOSS"),
    Flag("toy", "everything small, on CPU", switch=True),
)


def main(argv: Sequence[str]) -> int:
    """Run the parts, write the report and print the table. Return the exit status."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends its part too
    arguments = parse_command_line(argv, FLAGS)
    out = Path(arguments.out).absolute()
    check_paths(arguments.text, out)
    report = begin_report(arguments, out)
    names = wanted(arguments)
    say(heading(report))
    for name in names:
        before = report["parts"].get(name)
        if before and before["status"] == "passed" and not arguments.only:
            say(f"{name}: passed before; --only={name} runs it again")
            continue
        left = arguments.budget_seconds - (time.monotonic() - began)
        seconds = left if arguments.toy else min(PARTS[name].seconds, left)
        if left < LEAST_SECONDS:
            outcome = {"status": "not run", "why": f"of the budget {max(left, 0):.0f} s were left"}
        else:
            outcome = run_part(name, seconds, arguments, torch=not report["machine"]["no_torch"])
        report["parts"][name] = outcome
        write(report, out)
        say(f"{name}: {outcome['status']}{reason(outcome)}")
    print("\n".join(table(report)))
    failed = [name for name in names if report["parts"][name]["status"] != "passed"]
    seconds = time.monotonic() - began
    say(f"{len(failed)} of {len(names)} parts did not pass, {seconds:.0f} s: {out}")
    return 1 if failed else 0


def check_paths(text: str | None, out: Path) -> None:
    """Raise `UsageError` if `text` is not a file, or `out` is a folder. Create the folder of
    `out`."""
    if text is not None and not Path(text).is_file():
        raise UsageError(f"--text={text} is not a file")
    if out.is_dir():
        raise UsageError(f"--out={out} is a folder: give a file in it")
    out.parent.mkdir(parents=True, exist_ok=True)


def wanted(arguments: SimpleNamespace) -> list[str]:
    """Return the names of the parts to run. With --toy, there are fewer rows."""
    known = [
        name
        for name, part in PARTS.items()
        if not (arguments.toy and part.kind == "speed" and name not in bench_gpu.TOY_ROWS)
    ]
    if not arguments.only:
        return known
    kinds = {KINDS[name] for name in arguments.only if name in KINDS}
    chosen = [name for name in known if name in arguments.only or PARTS[name].kind in kinds]
    if not chosen:
        raise UsageError(f"--toy has no such part; it has {', '.join(known)}")
    return chosen


def say(line: str) -> None:
    """Print a line on standard error."""
    print(f"gpu_run.py: {line}", file=sys.stderr, flush=True)


# ---- The report.


def begin_report(arguments: SimpleNamespace, out: Path) -> dict[str, Any]:
    """Return the report in `out` if its machine, code and options are the same; else an empty
    report.

    Raises `UsageError` if there is no GPU, or if `out` is not a report.
    """
    found = in_own_process(machine, 120, arguments.toy)
    if found["status"] != "passed":
        raise UsageError(
            f"JAX finds no GPU here ({found['last_lines'][-1]}): --toy tries this on CPU"
        )
    fresh = {
        "machine": found["figures"],
        "code": digest(),
        "toy": arguments.toy,
        "text": arguments.text,
        "parts": {},
    }
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
        same = all(earlier[name] == fresh[name] for name in fresh if name != "parts")
    except FileNotFoundError:
        return fresh
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"--out={out} is a file of something else: name another") from None
    if not same:
        say(f"{out} is of another machine, code or text: begun anew")
    return earlier if same else fresh


def write(report: dict[str, Any], out: Path) -> None:
    """Write the report, with the current time."""
    report["written"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_durably(out, json.dumps(report, indent=1) + "\n")


def digest() -> str:
    """Return a hash of the code. It identifies the code even without a Git repository."""
    packages = {path.parent for path in ROOT.glob("*/__init__.py")} | {ROOT / "benchmarks"}
    files = [*ROOT.glob("*.py"), *(file for one in packages for file in one.rglob("*.py"))]
    hashed = hashlib.sha256()
    for path in sorted(files):
        hashed.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def machine(found: Findings) -> None:
    """Store the hardware and the versions. Raises RuntimeError if JAX finds no GPU."""
    import jax

    try:
        device = jax.devices()[0]
    except Exception as error:  # Without CUDA's plugin, an empty AssertionError.
        raise RuntimeError(str(error).partition("\n")[0] or "no plugin for CUDA") from None
    if not found.toy and device.platform != "gpu":
        raise RuntimeError(f"only {device.device_kind}")
    here = environment()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    smi = command_output(query)
    ask = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    torch = command_output([sys.executable, "-c", ask])
    missing = None if torch else "torch is not installed"
    if torch and torch.endswith("False") and not found.toy:
        missing = f"torch {torch} has no CUDA here"
    found.note(
        device=device.device_kind,
        driver=smi,
        cuda=getattr(device.client, "platform_version", None),
        torch=torch,
        no_torch=missing,
        **{name: here[name] for name in ("processor", "memory", "system", "commit")},
        versions=here["versions"],
    )


def command_output(command: Sequence[str]) -> str | None:
    """Return the standard output of a command; None if the command is missing or fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()
    return None


# ---- A part, in its own process.


def run_part(
    name: str, seconds: float, arguments: SimpleNamespace, *, torch: bool
) -> dict[str, Any]:
    """Run a part in its own process, for at most `seconds`.

    Returns `status`, `seconds`, `checks` and `figures`; if it did not pass, also `why` and
    `last_lines`.
    """
    say(f"{name}: at most {seconds:.0f} s")
    options = {"text": arguments.text, "target_loss": arguments.target_loss, "torch": torch}
    platforms = PARTS[name].platforms
    return in_own_process(call_part, seconds, arguments.toy, platforms, (name,), options)


def call_part(found: Findings, name: str) -> None:
    """Run a part in this process."""
    part = PARTS[name]
    getattr(importlib.import_module(part.module), part.function)(found, *part.arguments)


def in_own_process(
    function: Callable[..., None],
    seconds: float,
    toy: bool,
    platforms: str = "cuda",
    arguments: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Call `function(Findings, *arguments)` in a new process; return a result as `run_part` does.

    After `seconds`, the process and all its child processes are killed.

    options: more fields of `Findings`.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_run-") as place:
        folder = Path(place)
        (folder / "own").mkdir()
        found = Findings(folder / "found.json", folder / "own", toy=toy, **(options or {}))
        log = folder / "log"
        process = multiprocessing.get_context("spawn").Process(
            target=live,
            args=(function, found, arguments, log, "cpu" if toy else platforms),
        )
        try:
            process.start()
            process.join(seconds)
            late = process.is_alive()
        finally:
            process.kill()
            with suppress(ProcessLookupError):  # Also end the processes that it started.
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        outcome: dict[str, Any] = {"status": "passed", "checks": {}, "figures": {}}
        with suppress(FileNotFoundError):
            outcome |= json.loads(found.file.read_text(encoding="utf-8"))
        outcome["seconds"] = round(time.monotonic() - began, 1)
        if late:
            outcome |= {"status": "out of time", "why": f"{seconds:.0f} s were over"}
        elif process.exitcode:
            failed = [name for name, check in outcome["checks"].items() if not check["passed"]]
            why = "; ".join(f"{name}: {outcome['checks'][name]['found']}" for name in failed)
            ended = f"its process ended with status {process.exitcode}"
            outcome |= {"status": "failed", "why": why or ended}
        if outcome["status"] != "passed":
            outcome["last_lines"] = last_lines(log)
        return outcome


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log; [""] if it is empty or missing."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:] or [""]


def live(function, found: Findings, arguments: tuple[str, ...], log: Path, platforms: str) -> None:
    """Run a part inside its own process: in a new process group, with its output redirected to
    `log`."""
    os.setpgid(0, 0)
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ["JAX_PLATFORMS"] = platforms
    # Processes share the GPU, so none may allocate all of its memory.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    function(found, *arguments)
    sys.stdout.flush()
    sys.exit(0 if found.passed else 1)


# ---- Messages and the table.


def reason(outcome: Mapping[str, Any]) -> str:
    """Return why a part did not pass, with the last lines of its log. For a part that passed,
    return its seconds."""
    if outcome["status"] == "passed":
        return f" ({outcome['seconds']:.0f} s)"
    lines = "".join(f"\n    {line}" for line in outcome.get("last_lines", ()))
    return f": {outcome['why']}{lines}"


def heading(report: Mapping[str, Any]) -> str:
    """Return a line with the hardware and the versions."""
    machine = report["machine"]
    pieces = [machine["driver"] or machine["device"], f"jax {machine['versions']['jax']}"]
    pieces += [f"PyTorch not run ({machine['no_torch']})" if machine["no_torch"] else None]
    pieces += [f"PyTorch {machine['torch']}" if machine["torch"] else None, machine["commit"]]
    pieces += ["at toy size" if report["toy"] else None]
    return "; ".join(piece for piece in pieces if piece)


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the parts, for docs/results.md."""
    yield heading(report)
    yield ""
    yield "| part | status | seconds | found |"
    yield "|---|---|---|---|"
    for name in PARTS:
        if (outcome := report["parts"].get(name)) is None:
            continue
        seconds = f"{outcome['seconds']:.0f}" if "seconds" in outcome else ""
        found = [
            f"{check}: {result['found']}"
            for check, result in outcome.get("checks", {}).items()
            if result["passed"]
        ]
        if outcome["status"] != "passed":
            found.insert(0, outcome["why"])
        cell = "<br>".join(found).replace("|", "\\|").replace("\n", " ")
        yield f"| `{name}` | {outcome['status']} | {seconds} | {cell} |"


if __name__ == "__main__":
    run_verb(main)
