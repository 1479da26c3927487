"""Reads Markdown documents, and follows their fences in a copy of the tree."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.verbs import environment

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if path.exists()
)

_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "runs", "wheels", "shared", "node_modules", "__pycache__", ".*_cache",
    ".hypothesis",
)  # fmt: skip


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its text, and its file, named last in the line above it."""

    language: str
    text: str
    file: str | None
    line: int


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def fences(document: str) -> list[Fence]:
    """Returns the fenced blocks of a document in their order."""
    found, opened, above = [], None, ""
    for number, line in enumerate(read(document).splitlines(), 1):
        if opened is None and line.startswith("```"):
            paths = re.findall(r"`([^`\s]+\.[a-z]+)`", above)
            opened, inside = (line[3:].strip(), paths[-1] if paths else None, number), []
        elif opened is not None and line.startswith("```"):
            language, file, start = opened
            found.append(Fence(language, "\n".join(inside) + "\n", file, start))
            opened, above = None, ""
        elif opened is not None:
            inside.append(line)
        elif line.strip():
            above = line
    assert opened is None, f"{document}: the fence of line {opened[2]} does not end"
    return found


def prose(document: str) -> str:
    """Returns the text of a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def copy_tree(target: Path) -> Path:
    """Copies the project, as a fresh clone would have it; returns the folder."""
    return Path(shutil.copytree(ROOT, target, ignore=_NOT_COPIED))


def write_files(document: str, tree: Path) -> list[Path]:
    """Makes the files that a document shows, and the changes that it shows, in `tree`.

    A ```python fence is a whole new file, a ```diff fence changes lines of one that is there.
    """
    made = []
    for fence in fences(document):
        if fence.language not in ("python", "diff"):
            continue
        assert fence.file, f"{document}, line {fence.line}: of which file is this?"
        path = tree / fence.file
        if fence.language == "diff":
            path.write_text(_changed(path.read_text(), fence, document))
        else:
            assert not path.exists(), f"{document}, line {fence.line}: {fence.file} is there"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)
        made.append(path)
    return made


def _changed(text: str, fence: Fence, document: str) -> str:
    """Returns `text` with the lines of a diff that begin with "-" replaced by those with "+"."""
    lines = fence.text.splitlines(keepends=True)
    before = "".join(line[1:] or line for line in lines if line[0] != "+")
    after = "".join(line[1:] or line for line in lines if line[0] != "-")
    where = f"{document}, line {fence.line}"
    assert text.count(before) == 1, f"{where}: {fence.file} has not once the lines\n{before}"
    return text.replace(before, after)


def commands(fence: Fence) -> Iterator[str]:
    """Yields the commands of a ```bash fence: lines, joined where they end with a backslash.

    The Python that `make setup` made is `python`, as where its environment is active. In place of
    `make lint` come the commands of that target.
    """
    text = fence.text.replace("\\\n", " ").replace(".venv/bin/python", "python")
    for line in text.splitlines():
        command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if command == "make lint":
            yield from recipe("lint")
        elif command:
            yield command


def recipe(target: str) -> list[str]:
    """Returns the commands of a target of the Makefile, with the programs of this environment."""
    _, _, rest = read("Makefile").partition(f"\n{target}:")
    lines = itertools.takewhile(lambda line: line.startswith("\t"), rest.splitlines()[1:])
    return [line.strip().replace("$(BIN)/", "") for line in lines]


def with_overrides(command: str, table: Mapping[str, Sequence[str]]) -> str:
    """Returns `command` with the overrides that `table` has for the longest beginning of it.

    They take the place of what the command says of the same fields.
    """
    known = [start for start in table if command.startswith(start)]
    for override in table[max(known, key=len)] if known else ():
        field = override.partition("=")[0]
        command = re.sub(rf" {re.escape(field)}[= ]\S+", "", command) + f" {override}"
    return command


def run(command: str, tree: Path, cache: str) -> subprocess.CompletedProcess:
    """Runs a command in `tree` with this environment's Python and programs, on one device."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tree,
        env=_environment(tree, cache),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


@contextlib.contextmanager
def serving(command: str, tree: Path, cache: str) -> Iterator[str]:
    """Runs a server in `tree` until the block ends, on a free port; gives its address once it is
    ready. It must end in good order when it is told to."""
    log = tree.parent / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command} --port=0"],
            cwd=tree,
            env=_environment(tree, cache),
            stdin=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        url = _line(process, log, "listening")["url"]
        _line(process, log, "ready")
        yield url
        process.terminate()
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _line(process: subprocess.Popen, log: Path, event: str) -> dict[str, str]:
    """Waits for a line of a server's log."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                found = json.loads(line)
                if found["event"] == event:
                    return found
        time.sleep(0.05)
    raise AssertionError(f"no line {event!r} in the log:\n{log.read_text()}")


def _environment(tree: Path, cache: str) -> dict[str, str]:
    """Returns an environment in which `python` is this one, with its caches in `cache`."""
    programs = tree.parent / "programs"
    if not programs.exists():
        programs.mkdir()
        python = programs / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    return environment() | {
        "PATH": path,
        "TRIFORM_CACHE": cache,
        "MYPY_CACHE_DIR": f"{cache}/mypy",
    }
