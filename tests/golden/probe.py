"""What one tree of the code does: run in the tree's root, it knows only the verbs' command lines.

python probe.py KIND JOBS.json ANSWERS.json

JOBS names command lines; ANSWERS gets what each came to. KIND is `train` (the lines of
metrics.jsonl), or `errors` (the message of a command line that is wrong).
"""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))


def train(arguments: list[str]) -> list[dict]:
    """Train as the command line says; return the lines of metrics.jsonl."""
    verb = importlib.import_module("train")
    workdir = next(a.removeprefix("--workdir=") for a in arguments if a.startswith("--workdir="))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = verb.main(arguments)
    if status:
        raise SystemExit(f"status {status}: train.py {' '.join(arguments)}")
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]


def errors(arguments: list[str]) -> str:
    """Return the message of a wrong command line, behind the name of its exception."""
    verb, *arguments = arguments
    try:
        importlib.import_module(verb).main(arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def main(kind: str, jobs: str, answers: str) -> None:
    """Do each job, and write all that they came to."""
    do = {"train": train, "errors": errors}[kind]
    found = {name: do(arguments) for name, arguments in json.loads(Path(jobs).read_text()).items()}
    Path(answers).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
