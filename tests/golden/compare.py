"""Whether this tree still does what it did: guards for changes that must change nothing.

make golden BASE=COMMIT        compare with what the tree of COMMIT does, here and now
make golden                    compare with what is stored in guards.json
python -m tests.golden.compare [--base=COMMIT] [--store] [--only=GUARD ...]

Guards, each against the stored values and against the tree of COMMIT:

    recipes      twenty steps of every recipe, small, on one device and on eight: the CRCs of the
                 batches and the keys of metrics.jsonl stored exactly, the losses to
                 1e-4; all of it, and the norms of the gradients, equal bit by bit in both trees
    continued    each kept workdir goes on for eight steps: bit by bit as in the tree of COMMIT,
                 metrics and the arrays of the checkpoint
    errors       the messages of wrong command lines, stored exactly
    tests        ids of tests: each that is gone names its successor in successors.json

Minutes on two cores. Exit status 1 where something differs; --store writes guards.json anew.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.compilation import QUICK_FLAGS
from tests.golden.recipes import RECIPES, fields_of, make_inputs
from tests.golden.workdirs import ROOT, RUNS, WORKDIRS

HOME = Path(__file__).parent
STORED = HOME / "guards.json"
SUCCESSORS = HOME / "successors.json"
DEVICES = (1, 8)
TIMES = {"examples_per_second", "step_seconds", "input_wait_fraction", "tokens_per_second"}

Answers = dict[str, Any]


def probe(tree: Path, kind: str, jobs: Mapping[str, list[str]], *, devices: int = 1) -> Answers:
    """Return what each job comes to in `tree`, on `devices` virtual devices."""
    with tempfile.TemporaryDirectory() as folder:
        given, answers = Path(folder, "jobs.json"), Path(folder, "answers.json")
        given.write_text(json.dumps(jobs))
        flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, HOME / "probe.py", kind, given, answers],
            cwd=tree,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the {kind} probe of {tree} failed")
        return json.loads(answers.read_text())


def overrides(fields: Mapping[str, str]) -> list[str]:
    """Return the fields as arguments of a command line."""
    return [f"--config.{name}={text}" for name, text in fields.items()]


def recipes(tree: Path, folder: Path, inputs: Mapping[str, Path]) -> Answers:
    """Return what every recipe logs in twenty steps, by number of devices."""
    found = {}
    for devices in DEVICES:
        jobs = {
            name: [
                f"--config=configs/{name}.py",
                f"--workdir={folder / f'{name}-{devices}'}",
                *overrides(fields_of(name, inputs)),
            ]
            for name in RECIPES
        }
        logs = probe(tree, "train", jobs, devices=devices)
        found |= {f"{name}, {devices}": told for name, told in logs.items()}
    return found


def continued(tree: Path, folder: Path) -> tuple[Answers, Answers]:
    """Return what each kept workdir logs in eight more steps, and the arrays it comes to."""
    jobs, arrays = {}, {}
    for name, (recipe, fields) in RUNS.items():
        workdir = shutil.copytree(WORKDIRS / name, folder / name)
        more = overrides(fields | {"train.steps": "20"})
        jobs[name] = [f"--config=configs/{recipe}.py", f"--workdir={workdir}", *more]
    logs = probe(tree, "train", jobs)
    for name in RUNS:
        arrays[name] = checkpoint_arrays(folder / name / "checkpoints" / "20")
    return logs, arrays


def checkpoint_arrays(step: Path) -> dict[str, bytes]:
    """Return the content of each array of a checkpoint by its name, read by Orbax alone."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    found = {}
    for item in ("model", "training"):
        tree = ocp.StandardCheckpointer().restore((step / item).absolute())
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        found |= {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
    return found


def errors(tree: Path) -> Answers:
    """Return the messages of wrong command lines, as the tests of these list them."""
    from tests.configs import test_wrong_command_lines as wrong

    groups = {
        wrong.TEXT: [*wrong.WRONG_FIELDS, *wrong.WRONG_FLAGS],
        wrong.PICTURES: wrong.WRONG_PICTURES,
        wrong.PAIRS: wrong.WRONG_PAIRS,
    }
    jobs = {
        f"{recipe} {row[0]}": ["train", recipe, wrong.WORKDIR, *row[0].split()]
        for recipe, rows in groups.items()
        for row in rows
    }
    workdir = "--workdir=tests/golden/workdirs/{}"
    for verb, name, *arguments in (
        ("generate", "attention_text", "--prompt=a", "--top_k=-1"),
        ("generate", "attention_text", "--prompt=a", "--temperature=-1"),
        ("generate", "attention_text", "--prompt=a", "--beam_size=2"),
        ("generate", "attention_text"),
        ("generate", "attention_text", "--prompt=a", "--step=7"),
        ("generate", "attention_text", "--prompt=a", "--weights=ema"),
        ("generate", "attention_text", "--input=README.md"),
        ("generate", "attention_pairs", "--prompt=a", "--top_k=3"),
        ("generate", "attention_pairs", "--input=gone.txt"),
        ("generate", "attention_pairs"),
        ("generate", "convolution_pictures", "--prompt=a"),
        ("generate", "convolution_pictures"),
        ("generate", "convolution_pictures", "--input=README.md"),
        ("generate", "convolution_pictures", "--input=configs"),
        ("generate", "convolution_pictures", "--input=*.nothing"),
        ("generate", "recurrence_sound", "--input=README.md"),
        ("generate", "recurrence_sound", "--length_penalty=1"),
        ("generate", "no_such_run", "--prompt=a"),
        ("evaluate", "attention_text", "--split=test"),
        ("evaluate", "attention_text", "--step=best", "--weights=ema"),
        ("evaluate", "attention_text", "--predictions=gone/file"),
        ("evaluate", "attention_text", "--config.model.width=3"),
    ):
        jobs[" ".join((verb, name, *arguments))] = [verb, workdir.format(name), *arguments]
    return probe(tree, "errors", jobs)


def test_ids(tree: Path) -> list[str]:
    """Return the ids of all tests that pytest collects."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"],  # -q is set
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"tests of {tree} can't be collected\n{done.stdout[-3000:]}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines of metrics.jsonl without what differs from run to run."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def summary(logs: Answers) -> Answers:
    """Return what is stored of the logs of recipes."""
    found: Answers = {}
    for name, lines in logs.items():
        steps = [line for line in lines if "batch_crc32" in line]
        recipe, _, devices = name.partition(", ")
        told = found.setdefault(recipe, {"losses": {}})
        told["losses"][devices] = [round(line["loss"], 6) for line in steps]
        told["batch_crc32"] = [line["batch_crc32"] for line in steps]
        told["keys"] = sorted(set().union(*lines))
    return found


def differences(what: str, known: Any, found: Any, *, closeness: float = 0.0) -> list[str]:
    """Say where two nested values differ, numbers by more than `closeness`, relatively."""
    if isinstance(known, dict) and isinstance(found, dict):
        names = sorted(known.keys() | found.keys())
        gone = [f"{what}: {name} is {'gone' if name in known else 'new'}" for name in names
                if (name in known) != (name in found)]  # fmt: skip
        both = (name for name in names if name in known and name in found)
        return gone + [line for name in both for line in differences(
            f"{what}: {name}", known[name], found[name], closeness=closeness)]  # fmt: skip
    if isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        pairs = enumerate(zip(known, found, strict=True))
        told = (differences(f"{what}[{i}]", *pair, closeness=closeness) for i, pair in pairs)
        return [line for lines in told for line in lines]
    if isinstance(known, float) and isinstance(found, float):
        same = math.isclose(known, found, rel_tol=closeness) or (known != known and found != found)
    else:
        same = known == found
    if same:
        return []
    if isinstance(known, bytes):
        return [f"{what}: other bytes"]
    return [f"{what}:\n    was {known!r}\n    is  {found!r}"]


def compare_recipes(base: Path | None, stored: Answers, folder: Path) -> list[str]:
    """Guard `recipes`; the stored summary is brought up to date in `stored`."""
    inputs = make_inputs(folder, WORKDIRS)
    trees = {"here": ROOT} | ({"base": base} if base else {})
    with ThreadPoolExecutor(2) as pool:
        runs = {
            name: pool.submit(recipes, tree, folder / name, inputs) for name, tree in trees.items()
        }
        found = {name: run.result() for name, run in runs.items()}
    told = summary(found["here"])
    known, stored["recipes"] = stored.get("recipes", told), told
    lines = differences("stored recipe", known, told, closeness=1e-4)
    if base:
        logs = ({name: untimed(log) for name, log in found[tree].items()} for tree in trees)
        here, there = logs
        lines += differences("recipe", there, here)
    return lines


def compare_continued(base: Path | None, stored: Answers, folder: Path) -> list[str]:
    """Guard `continued`: nothing is stored, as another machine rounds differently."""
    logs, arrays = continued(ROOT, folder / "here")
    if not base:
        return []
    base_logs, base_arrays = continued(base, folder / "base")
    logs, base_logs = ({k: untimed(v) for k, v in one.items()} for one in (logs, base_logs))
    return differences("continued", base_logs, logs) + differences("arrays", base_arrays, arrays)


def compare_errors(base: Path | None, stored: Answers, folder: Path) -> list[str]:
    """Guard `errors`."""
    found = errors(ROOT)
    known, stored["errors"] = stored.get("errors", found), found
    lines = differences("stored error", known, found)
    return lines + (differences("error", errors(base), found) if base else [])


def compare_tests(base: Path | None, stored: Answers, folder: Path) -> list[str]:
    """Guard `tests`: `successors.json` maps an id, or the beginning of ids, to what took over."""
    if not base:
        return []
    here, successors = set(test_ids(ROOT)), json.loads(SUCCESSORS.read_text())
    bare = {re.sub(r"\[.*", "", one) for one in here}
    lines = []
    for old, new in successors.items():
        if not any(one == new or one.startswith(new) for one in here | bare):
            lines.append(f"tests: {new}, the successor of {old}, is not there")
    for one in sorted(set(test_ids(base)) - here):
        if not any(one.startswith(old) for old in successors):
            lines.append(f"tests: {one} is gone and names no successor")
    return lines


GUARDS = {
    "errors": compare_errors,
    "tests": compare_tests,
    "continued": compare_continued,
    "recipes": compare_recipes,
}


def main(argv: list[str]) -> int:
    """Compare, and print what differs. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", metavar="COMMIT", help="another tree that is run beside this one")
    parser.add_argument("--store", action="store_true", help="write guards.json anew")
    parser.add_argument("--only", action="append", choices=GUARDS, help="one of the guards")
    given = parser.parse_args(argv)
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    differ = 0
    with tempfile.TemporaryDirectory() as text:
        folder, base = Path(text), None
        if given.base:
            base = folder / "tree"
            base.mkdir()
            archive = ["git", "-C", ROOT, "archive", given.base]
            packed = subprocess.run(archive, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", base], input=packed, check=True)
        for name in given.only or GUARDS:
            (folder / name).mkdir()
            lines = GUARDS[name](base, stored, folder / name)
            differ += len(lines)
            print(*lines, f"{name}: {len(lines) or 'no'} differences", sep="\n", flush=True)
    if given.store:
        STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        return 0
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
