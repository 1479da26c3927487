"""Seconds from the command to the first step, cold and warm.

python benchmarks/startup.py [--text=input.txt] [--repeats=3] [--config.section.field=value ...]

Cold: no prepared data, nothing compiled. Warm: both are there, the workdir is new. The recipe is
`shakespeare_char`; the first step is there when its line stands in metrics.jsonl. Best of the
repeats, and each; `--profile` also lists the slowest imports of a warm start.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.reading.command_line import Flag, parse_command_line

ROOT = Path(__file__).parents[1]
FLAGS = (
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("repeats", "starts of each kind", type=int, default=3, minimum=1),
    Flag("profile", "list the slowest imports", switch=True),
)
SHOWN = 15


def main(argv: list[str]) -> None:
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    fields = {"data.path": arguments.text, "train.steps": "1000000", "train.log_every_steps": "1"}
    overrides = [f"--config.{k}={v}" for k, v in (fields | arguments.overrides).items()]
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            cache = Path(folder) / f"cache-{repeat}"
            for kind, found in times.items():
                found.append(start(Path(folder) / f"{kind}-{repeat}", cache, overrides))
        for kind, found in times.items():
            each = " ".join(f"{seconds:.1f}" for seconds in found)
            print(f"{kind}: first step after {min(found):.1f} s (each: {each})")
        if arguments.profile:
            log = Path(folder) / "imports"
            start(Path(folder) / "profile", cache, overrides, ["-X", "importtime"], log)
            print_imports(log.read_text())


def start(
    workdir: Path,
    cache: Path,
    overrides: list[str],
    options: list[str] | None = None,
    log: Path = Path(os.devnull),
) -> float:
    """Seconds until the first step of a new run; the run is then killed."""
    command = [sys.executable, *(options or []), "train.py", f"--workdir={workdir}"]
    command += ["--config=configs/shakespeare_char.py", *overrides]
    environment = os.environ | {"TRIFORM_CACHE": str(cache)}
    began = time.perf_counter()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        metrics = workdir / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"train.py ended with status {process.returncode}")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def print_imports(log: str) -> None:
    """The slowest imports, each with all that it imports itself."""
    rows = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", log)
    for microseconds, name in sorted(((int(n), name) for n, name in rows), reverse=True)[:SHOWN]:
        print(f"{microseconds / 1e6:8.2f} s  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
