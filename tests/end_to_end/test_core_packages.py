"""`make train` installs the packages of training alone: a run needs no others."""

import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.end_to_end.verbs import ROOT, TINY_TEXT, environment, write_text

WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

ABSENT = set(sys.argv[1].split(","))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in ABSENT else super().find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program as if the modules that its first argument lists were not installed."""


def core_packages() -> set[str]:
    """Returns the packages that `pip install .` brings, by their canonical names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, left = set[str](), list(project["dependencies"])
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if name in found and extras == {""}:
            continue
        found.add(name)
        left += [
            one
            for one in metadata.requires(name) or ()
            if (marker := Requirement(one).marker) is None
            or any(marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


def other_modules() -> set[str]:
    """Returns the top-level modules of the installed packages that are not of the core."""
    core = core_packages()
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if module not in sys.stdlib_module_names and core.isdisjoint(map(canonicalize_name, owners))
    }


def run(verb: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a program as where nothing but the core is installed."""
    command = [sys.executable, "-c", WITHOUT, ",".join(other_modules()), str(ROOT / verb)]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_needs_no_package_that_make_train_does_not_install(tmp_path, cache_dir):
    assert {"pytest", "uvicorn", "starlette"} <= other_modules()
    fields = TINY_TEXT | {
        "train.steps": "3",
        "data.path": str(write_text(tmp_path / "text.txt")),
        "data.cache_dir": cache_dir,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    recipe = f"--config={ROOT / 'configs/own_text.py'}"
    done = run("train.py", recipe, f"--workdir={tmp_path / 'run'}", *overrides)
    assert done.returncode == 0, done.stderr
    done = run("evaluate.py", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr


def test_a_server_says_what_it_needs():
    done = run("serve.py", f"--workdir={ROOT / 'tests/golden/workdirs/attention_text'}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "serve.py: error: a server needs more packages than training: "
        "make setup, or pip install -e '.[serve]'"
    ]


def installed_by(target: str, folder: Path) -> list[str]:
    """Returns what `make target` would install, without installing it."""
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=folder, capture_output=True, text=True, check=True
    )
    lines = (line.partition(" --editable ")[2] for line in done.stdout.splitlines())
    return [line for line in lines if line]


def test_each_step_of_the_set_up_is_done_once_whichever_command_comes_first(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    core, tools = ".", "'.[serve,dev]'"
    assert installed_by("train", tmp_path) == [core]
    assert installed_by("setup", tmp_path) == installed_by("lint", tmp_path) == [core, tools]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").touch()
    assert installed_by("train", tmp_path) == []
    assert installed_by("setup", tmp_path) == [tools]  # as after an interruption too
    (tmp_path / ".venv/.dev").touch()
    assert installed_by("setup", tmp_path) == []
    (tmp_path / "constraints.txt").touch()
    assert installed_by("setup", tmp_path) == [core, tools]
