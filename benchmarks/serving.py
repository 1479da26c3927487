"""Measures a server through its HTTP interface: its speed, its behaviour under load, and how it
stops.

python benchmarks/serving.py [--part=PART ...] [--workdir=DIR] [--slots=16] [--threads=N]
                             [--turns=5] [--seconds=10] [--minutes=30] [--rounds=20]
                             [--folder=DIR] [--out=FILE] [--force] [--toy]

Each part runs `serve.py` in its own process, and sends requests over plain sockets from another
process. Without --part, all of them run:

- `throughput` alternates between 16 streams of completions over HTTP and the engine alone, which
  generates the same texts. It measures the speed, the time to the first token, and the CPU time of
  client and server.
- `soak` sends mixed traffic for `--minutes`, twice as much as the server can answer. Requests may
  be refused with 429, but may not fail otherwise; memory may not grow, and no slot may be lost.
- `fairness` measures how long a client waits when it is alone, and when another client sends ten
  times as much.
- `sigterm` stops a server under load, `--rounds` times. Every accepted request must be answered, or
  its client be asked to try again.

The model is a Llama of about 30 million parameters with random weights, or that of --workdir.
--folder keeps it for the next time.

The command refuses to measure on a busy machine, unless --force is given; the result then says so.
The last line is the result as JSON; --out also writes it to a file. The exit status is 1 if a check
failed.
"""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import llama_folder, serving_sigterm, serving_soak, serving_throughput
from benchmarks.busy import LARGEST_SPREAD, check_idle
from benchmarks.decoding import MIXED, prepare
from benchmarks.measuring import in_own_process
from configs.errors import UsageError
from configs.files import write_durably
from configs.reading.command_line import Flag, parse_command_line, run_verb
from data.codecs.tokenizers import Tokenizer
from reporting.report.machine import environment

PARTS = ("throughput", "soak", "fairness", "sigterm")
EACH = 4
"""Number of texts that a stream requests in a turn, one after the other."""

TOY = {"slots": 4, "turns": 1, "seconds": 0.0, "minutes": 0.1, "rounds": 2}

FLAGS = (
    Flag("part", f"parts to run: {', '.join(PARTS)} (default: all)", repeatable=True),
    Flag("workdir", "a folder that train.py wrote (default: a Llama with random weights)"),
    Flag("slots", "slots of the server, and streams of the throughput", type=int, minimum=1),
    Flag("threads", "threads of the model (default: all CPUs)", type=int, minimum=1),
    Flag("turns", "turns of each side of the throughput", type=int, minimum=1),
    Flag("seconds", "length of a turn; each part of the fairness takes six", type=float, minimum=0),
    Flag("minutes", "length of the soak", type=float, minimum=0),
    Flag("rounds", "rounds of sigterm", type=int, minimum=1),
    Flag("folder", "a folder in which the model is kept"),
    Flag("out", "a file for the result, as JSON"),
    Flag("force", "measure on a busy machine too", switch=True),
    Flag("toy", "a small model and little traffic", switch=True),
)
DEFAULTS = {"slots": 16, "turns": 5, "seconds": 10.0, "minutes": 30.0, "rounds": 20}


def main(argv: Sequence[str]) -> int:
    """Run the parts; print the tables and the result. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    for part in arguments.part:
        if part not in PARTS:
            raise UsageError(f"--part={part}: choose from {', '.join(PARTS)}")
    for name, value in (TOY if arguments.toy else DEFAULTS).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
    threads = arguments.threads or len(os.sched_getaffinity(0))
    load = check_idle(force=arguments.force)
    machine = in_own_process(environment) | {"command": shlex.join(sys.argv)}
    result: dict[str, Any] = {"machine": machine, "load": load, "threads": threads}
    result |= {"slots": arguments.slots}
    print(f"{machine['processor']}, {threads} threads, {arguments.slots} slots, "
          f"jax {machine['versions']['jax']}")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        workdir = workdir_of(arguments, Path(arguments.folder or temporary))
        for part in arguments.part or PARTS:
            log = Path(temporary) / f"{part}.log"
            print(f"\n{part}:\n")
            result[part] = run_part(part, workdir, log, threads, arguments)
    text = json.dumps(result)
    print(text)
    if arguments.out:
        write_durably(Path(arguments.out), text)
    failures = [text for part in PARTS for text in result.get(part, {}).get("failures", ())]
    for failure in failures:
        print(f"serving.py: {failure}", file=sys.stderr)
    return 1 if failures else 0


def workdir_of(arguments: SimpleNamespace, root: Path) -> Path:
    """Return the workdir to serve; without --workdir, make it."""
    if arguments.workdir is not None:
        return Path(arguments.workdir)
    shape = llama_folder.TOY if arguments.toy else llama_folder.ABOUT_30M
    prepare(root / "llama", shape, peers=False)
    return root / "llama/workdir"


def run_part(
    part: str, workdir: Path, log: Path, threads: int, arguments: SimpleNamespace
) -> dict[str, Any]:
    """Run one part of the benchmark, print its results and return them.

    part: one of `PARTS`.
    workdir: the workdir that is served.
    log: the file for the server's messages.
    threads: the number of CPU threads of the model's computations.
    arguments: the command-line arguments.
    """
    common = {"threads": threads, "slots": arguments.slots}
    most_tokens = 8 if arguments.toy else 64
    seconds = max(6 * arguments.seconds, 3.0)
    if part == "soak":
        minutes = arguments.minutes
        return serving_soak.soak(
            workdir, log, **common, seconds=60 * minutes, most_tokens=most_tokens
        )
    if part == "fairness":
        return serving_soak.fairness(
            workdir, log, **common, seconds=seconds, most_tokens=most_tokens
        )
    if part == "sigterm":
        return serving_sigterm.measure(
            workdir, log, **common, rounds=arguments.rounds, most_tokens=4 * most_tokens
        )
    tokenizer = Tokenizer.load(workdir / "tokenizer.json")
    prompts, new = ((4, 8), (6, 12)) if arguments.toy else MIXED
    texts = serving_throughput.texts_of(tokenizer, arguments.slots, EACH, prompts=prompts, new=new)
    found = serving_throughput.measure(
        workdir, log, texts, **common, turns=arguments.turns, seconds=arguments.seconds
    )
    if found["calibration_spread"] > LARGEST_SPREAD:
        print(
            "serving.py: the machine was not steady: the same computation took up to "
            f"{found['calibration_spread']:.2f} times as long",
            file=sys.stderr,
        )
    return found


if __name__ == "__main__":
    run_verb(main)
