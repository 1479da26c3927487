"""Inspects, verifies, compares and copies checkpoints, without the model and without JAX.

python checkpoint.py inspect DIR [--step=N]     arrays, position in the data, configuration, steps
python checkpoint.py verify DIR [--step=N]      compares every file of every step with its hash
python checkpoint.py diff A B [--step=N]        which arrays and which fields of the configuration
                                                differ, and by how much
python checkpoint.py copy A B [--step=N]        to a new place, verified

DIR, A and B are workdirs, or folders of one step (`runs/mine/checkpoints/120`), on this machine or
in an object store (`gs://BUCKET/NAME`, `s3://BUCKET/NAME`), such as a run's mirror. Of a workdir,
`inspect` and `diff` read the newest step, or step N; `verify` and `copy` take all steps, or step N.
A run may go on meanwhile: a step that is read is not deleted.

Nothing may be at the path B of `copy`. It appears only when it is complete: each step was read
again and compared with its hashes, and its manifest was written last. The copy of a workdir has
what a run needs to go on: the configuration, the tokenizer, the metrics and the checkpoints.

With --json, standard output has JSON objects: `verify` writes one for each step, the others one.

Exit status: 0 done; 1 damage was found (`verify`, `copy`), the two differ (`diff`), or an object
store can't be read or written; 2 a usage error.
"""

import contextlib
import difflib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configs.errors import UsageError
from configs.files import new_path
from configs.json_text import json_text
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.remote import ANY, check_place, is_remote
from reporting.wording import bytes_text, metric_text
from storage.store import Store, open_store
from training.copying import copy_step, copy_workdir, fetch_workdir, upload_workdir
from training.inspection import (
    Step,
    differing_leaves,
    differing_settings,
    find_step,
    find_steps,
)
from training.manifest import CHECKPOINTS, MANIFEST, Damaged, StepLock, unfinished, verify
from training.remote_steps import (
    fetch_step,
    steps_in,
    upload_step,
    verify_remote,
)
from training.workdir import is_in_use

FLAGS = (
    Flag("step", meaning="the step of a workdir", type=int, minimum=0, placeholder="N"),
    Flag("json", meaning="write JSON objects, one a line", switch=True),
)
WIDEST_VALUE = 60  # Columns of a value of the configuration.
Place = Path | Store


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, words=True)
    command, *names = arguments.words or [""]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"no command {command!r}: {hint}" if command else f"which command? {hint}")
    run, usage = COMMANDS[command]
    if len(names) != usage.count(" "):
        raise UsageError(f"{len(names)} folders are given: checkpoint.py {usage}")
    try:
        return run(arguments, *map(place_of, names))
    except Damaged as damage:
        print(f"checkpoint.py: {damage}", file=sys.stderr)
        return 1


def place_of(name: str) -> Place:
    """Return the place that an argument names. Raises `UsageError` for a URL of another kind."""
    check_place("", name, ANY, "give one of these")
    return open_store(name) if is_remote(name) else Path(name)


def inspect(arguments: SimpleNamespace, place: Place) -> int:
    """Print what a step holds, from its manifest alone."""
    with at_hand(place, arguments.step, with_arrays=False) as path:
        return inspect_folder(arguments, place, path)


def inspect_folder(arguments: SimpleNamespace, place: Place, path: Path) -> int:
    """Print what a step at `path` holds, or the copy of what is at `place`."""
    step = find_step(path, arguments.step)
    manifest, sizes = step.manifest, step.sizes
    run = find_steps(step.folder.parent) if step.folder.name.isdecimal() else [step]
    history = [{"step": int(one.folder.name), **state_of(one)} for one in run]
    if arguments.json:
        leaves = {name: {**leaf, "bytes": sizes[name]} for name, leaf in step.leaves.items()}
        kept = ("step", "config", "data", "metrics", "history", "versions", "format")
        result = {name: manifest[name] for name in kept if name in manifest}
        result |= {"position": step.position, "steps": history, "leaves": leaves}
        print(json_text(result | {"bytes": step.stored_bytes, "files": len(manifest["files"])}))
        return 0
    position = step.position
    read = f"{position['batches']:,} batches, {position['examples']:,} examples"
    if "epoch" in position:
        read += f"; next is example {position['example_of_epoch']:,} of epoch {position['epoch']}"
    versions = ", ".join(f"{name} {one}" for name, one in manifest["versions"].items())
    rows = [
        ("step", f"{manifest['step']:,} of {manifest['config']['train']['steps']:,}"),
        ("data read", read),
        ("on the disk", f"{bytes_text(step.stored_bytes)}, {len(manifest['files'])} files"),
        ("in memory", f"{bytes_text(sum(sizes.values()))}, {len(sizes)} arrays"),
        ("saved with", versions),
    ]
    print(str(step.folder).replace(str(path), url_of(place)))
    print_table(rows)
    print("\nsteps")
    print_table([(str(one["step"]), one.get("problem") or metrics_text(one)) for one in history])
    print("\narrays")
    print_table(
        [
            (name, f"{leaf['dtype']}{leaf['shape']}", bytes_text(sizes[name]), axes_text(leaf))
            for name, leaf in step.leaves.items()
        ]
    )
    print("\nconfiguration")
    print_table([(name, shortened(value)) for name, value in step.settings.items()])
    return 0


def verify_all(arguments: SimpleNamespace, path: Place) -> int:
    """Compare all files of the steps with their hashes. Return 1 if a step is damaged."""
    if not isinstance(path, Path):
        return verify_store(arguments, path)
    steps = chosen_steps(arguments, path)
    is_written = is_in_use(steps[-1].folder.parent.parent)
    status = 0
    for step in steps:
        fault = find_fault(step)
        if not step.folder.exists() or (is_written and fault == unfinished(step.folder)):
            continue  # A run has just deleted it, or is writing it.
        files, size = (0, 0) if fault else (len(step.manifest["files"]), step.stored_bytes)
        status |= print_verdict(arguments, step.folder.name, fault, files, size)
    return status


def verify_store(arguments: SimpleNamespace, store: Store) -> int:
    """Read all files of the steps in a store, and compare them with their hashes. Return 1 if a
    step is damaged."""
    status = 0
    for number, step in chosen_remote_steps(store, arguments.step).items():
        fault, files, size = None, 0, 0
        try:
            hashes = verify_remote(step)["files"]
            files, size = len(hashes), sum(size for size, *_ in hashes.values())
        except Damaged as damage:
            fault = str(damage)
        status |= print_verdict(arguments, str(number), fault, files, size)
    return status


def print_verdict(
    arguments: SimpleNamespace, step: str, fault: str | None, files: int, size: int
) -> int:
    """Print whether a step is whole, or its fault. Return 1 if it is damaged."""
    if arguments.json:
        result = {"step": step, "whole": not fault, "fault": fault}
        print(json_text(result | {"files": files, "bytes": size}), flush=True)
    else:
        text = fault or f"whole: {files} files, {bytes_text(size)}"
        print(f"step {step}: {text}", flush=True)
    return 1 if fault else 0


def chosen_remote_steps(store: Store, number: int | None) -> Mapping[int, Store]:
    """Return the step `number` in a store, or all of them. Raises `UsageError` if it is not there,
    or if there is none."""
    steps = steps_in(store)
    if not steps:
        raise UsageError(f"{store.url} holds no checkpoint: give a workdir, or a step")
    if number is None:
        return steps
    if number not in steps:
        there = ", ".join(map(str, steps))
        raise UsageError(f"--step={number}: {store.url} has no such step, of {there}")
    return {number: steps[number]}


@contextlib.contextmanager
def at_hand(place: Place, number: int | None, *, with_arrays: bool) -> Iterator[Path]:
    """Yield a folder of this machine with what is at a place.

    Of a store, it is a temporary copy: of the manifests alone, or `with_arrays` of the step
    `number` or the newest one, verified.
    """
    if isinstance(place, Path):
        yield place
        return
    steps = chosen_remote_steps(place, number)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / CHECKPOINTS
        if with_arrays:
            newest = max(steps)
            fetch_step(steps[newest], folder / str(newest))
        else:
            for one, step in steps.items():
                (folder / str(one)).mkdir(parents=True)
                with contextlib.suppress(FileNotFoundError):
                    (folder / str(one) / MANIFEST).write_bytes(step.read(MANIFEST))
        is_step = place in steps.values()
        yield folder / str(max(steps)) if is_step else Path(scratch)


def url_of(place: Place) -> str:
    """Return the name of a place in messages."""
    return str(place) if isinstance(place, Path) else place.url


def find_fault(step: Step) -> str | None:
    """Return what is wrong with the files of a step; None if nothing is."""
    try:
        with StepLock(step.folder):
            verify(step.folder)
    except FileNotFoundError:
        return unfinished(step.folder)
    except Damaged as damage:
        return str(damage)
    return None


def diff(arguments: SimpleNamespace, one: Place, other: Place) -> int:
    """Print the fields and the arrays in which two steps differ. Return 1 if there are any."""
    with contextlib.ExitStack() as locks:
        paths = [
            locks.enter_context(at_hand(place, arguments.step, with_arrays=True))
            for place in (one, other)
        ]
        steps = [find_step(path, arguments.step) for path in paths]
        names = [
            str(step.folder).replace(str(path), url_of(place))
            for step, path, place in zip(steps, paths, (one, other), strict=True)
        ]
        for step in steps:
            verify_locked(step, locks)
        fields = differing_settings(*steps)
        leaves = differing_leaves(*steps)
        if arguments.json:
            found = list(leaves)
            print(json_text({"folders": names, "fields": fields, "leaves": found}))
            return 1 if fields or found else 0
        for name, values in fields.items():
            print(f"{name}: {', '.join(map(shortened, values))}")
        count = 0
        for leaf in leaves:
            count += 1
            print(f"{leaf['name']}: {difference_text(leaf, names)}", flush=True)
    arrays = len(steps[0].leaves.keys() | steps[1].leaves.keys())
    print(f"{len(fields)} fields and {count} of {arrays} arrays differ")
    return 1 if fields or count else 0


def verify_locked(step: Step, locks: contextlib.ExitStack) -> None:
    """Verify the files of a step, and keep it from being deleted until `locks` is closed. Raises
    `Damaged`."""
    try:
        locks.enter_context(StepLock(step.folder))
    except FileNotFoundError:
        raise Damaged(unfinished(step.folder)) from None
    verify(step.folder)


def copy(arguments: SimpleNamespace, source: Place, target: Place) -> int:
    """Copy a step or a workdir to a new place."""
    check_new(target)
    if isinstance(source, Path):
        copied = copy_folder(arguments, source, target)
    elif isinstance(target, Path):
        copied = copy_store(arguments, source, target)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            between = Path(scratch) / source.url.rpartition("/")[2]
            copy_store(arguments, source, between)
            copied = copy_folder(arguments, between, target)
    if arguments.json:
        result = {"from": url_of(source), "to": url_of(target), "steps": copied}
        print(json_text(result))
    else:
        what = f"steps {', '.join(copied)}" if len(copied) > 1 else f"step {', '.join(copied)}"
        size = bytes_text(sum(copied.values()))
        print(f"{url_of(target)}: {what}, {size}, verified")
    return 0


def check_new(target: Place) -> None:
    """Raise `UsageError` unless a copy can be made at `target`."""
    if not isinstance(target, Path):
        if there := target.list():
            raise UsageError(f"{target.url}/{min(there)} is there already: give a new place")
        return
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is there already: give a new path")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: there is no folder {target.absolute().parent}")


def copy_store(arguments: SimpleNamespace, source: Store, target: Path) -> dict[str, int]:
    """Copy a step or a workdir in a store to a new path. Return the bytes of each step."""
    steps = chosen_remote_steps(source, arguments.step)
    with new_path(target) as temporary:
        if source in steps.values():
            name = source.url.rpartition("/")[2]
            return {name: fetch_step(source, temporary)}
        return fetch_workdir(source, temporary, steps)


def copy_folder(arguments: SimpleNamespace, source: Path, target: Place) -> dict[str, int]:
    """Copy a step or a workdir of this machine to a new place. Return the bytes of each step."""
    steps, is_step = chosen_steps(arguments, source), (source / MANIFEST).is_file()
    if not is_step and not (source / CHECKPOINTS).is_dir():
        raise UsageError(f"{source} is no workdir and no step: give one of them")
    finished = [step.folder for step in steps if (step.folder / MANIFEST).is_file()]
    if not finished:
        raise Damaged(unfinished(steps[-1].folder))
    if not isinstance(target, Path):
        if is_step:
            return {source.name: upload_step(source, target)}
        return upload_workdir(source, target, finished)
    with new_path(target) as temporary:
        if is_step:
            return {source.name: copy_step(source, temporary)}
        return copy_workdir(source, temporary, finished)


COMMANDS: dict[str, tuple[Callable[..., int], str]] = {
    "inspect": (inspect, "inspect DIR"),
    "verify": (verify_all, "verify DIR"),
    "diff": (diff, "diff A B"),
    "copy": (copy, "copy A B"),
}


def chosen_steps(arguments: SimpleNamespace, path: Path) -> list[Step]:
    """Return the step that --step names, or all steps of `path`."""
    return find_steps(path) if arguments.step is None else [find_step(path, arguments.step)]


def state_of(step: Step) -> dict[str, Any]:
    """Return the `metrics` of a step, or the `problem` of its manifest."""
    try:
        return {"metrics": step.manifest["metrics"]}
    except Damaged as damage:
        return {"problem": str(damage)}


def metrics_text(state: dict[str, Any]) -> str:
    """Format the metrics of a step."""
    metrics = {k: v for k, v in state["metrics"].items() if k not in ("step", "examples")}
    return ", ".join(metric_text(*pair) for pair in metrics.items()) or "not evaluated"


def difference_text(leaf: dict[str, Any], names: Sequence[str]) -> str:
    """Describe how an array differs: an object of `differing_leaves`. names: of the two steps."""

    def parts() -> Iterator[str]:
        if "only_in" in leaf:
            yield f"only in {names[leaf['only_in']]}"
        for key in ("shapes", "dtypes"):
            if key in leaf:
                yield f"{leaf[key][0]} and {leaf[key][1]}"
        if "different" in leaf:
            yield f"{leaf['different']:,} of {leaf['elements']:,} differ"
            yield f"by up to {leaf['max_absolute']:.3g}, {leaf['max_relative']:.3g} of the larger"
        if leaf.get("not_finite"):
            yield f"{leaf['not_finite']:,} are not finite"

    return ", ".join(parts())


def axes_text(leaf: Any) -> str:
    """Return the logical axes of an array, with a dash for each that has none."""
    return " ".join(axis or "-" for axis in leaf.get("axes", ()))


def shortened(value: Any) -> str:
    """Format a value of the configuration in one short line."""
    text = value if isinstance(value, str) else json_text(value)
    text = " ".join(text.split())
    return text if len(text) <= WIDEST_VALUE else f"{text[: WIDEST_VALUE - 3]}..."


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {'  '.join(cells)}".rstrip())


if __name__ == "__main__":
    run_verb(main)
