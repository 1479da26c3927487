"""A run whose machine loses its power goes on from its last save."""

import os
import random
import shutil
from pathlib import Path

import pytest

import configs
from benchmarks.power_cuts import EVERY_STEPS, cut_and_resume, disk
from data.cache import build_once
from tests.end_to_end.verbs import TINY_TEXT, write_text


def test_after_a_power_cut_a_run_goes_on_from_its_last_save(tmp_path):
    text = write_text(tmp_path / "input.txt")
    try:
        with disk() as made:
            finished, resumed = cut_and_resume(made, text, random.Random(0))
    except OSError as why:  # here the order of what is synced is looked at instead, below
        pytest.skip(f"no disk whose power could be cut: {why}")
    assert finished - EVERY_STEPS <= resumed


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, int | str]]:
    """What happened to the disk: ("synced", inode), ("named", path), ("removed", path)."""
    found: list[tuple[str, int | str]] = []
    fsync, rmtree, replace, rename = os.fsync, shutil.rmtree, Path.replace, Path.rename

    def traced_fsync(descriptor):
        fsync(descriptor)
        found.append(("synced", os.fstat(descriptor).st_ino))

    def traced_rmtree(path, *arguments, **more):
        found.append(("removed", str(path)))
        rmtree(path, *arguments, **more)

    def traced(rename):
        def function(path, target):
            found.append(("named", str(target)))
            return rename(path, target)

        return function

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(shutil, "rmtree", traced_rmtree)
    monkeypatch.setattr(Path, "replace", traced(replace))
    monkeypatch.setattr(Path, "rename", traced(rename))
    return found


def test_all_that_a_resume_needs_is_on_the_disk_before_the_step_counts(
    tmp_path, events, monkeypatch
):
    import train

    monkeypatch.chdir(Path(train.__file__).parent)
    text, workdir, cache = write_text(tmp_path / "input.txt"), tmp_path / "run", tmp_path / "cache"
    fields = TINY_TEXT | {
        "data.path": str(text),
        "data.cache_dir": str(cache),
        "train.steps": "2",
        "checkpoint.every_steps": "1",
        "checkpoint.keep_last": "1",
        "checkpoint.keep_best": "0",
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    recipe = f"--config={configs.__path__[0]}/shakespeare_char.py"
    assert train.main([recipe, f"--workdir={workdir}", *arguments]) == 0

    step = workdir / "checkpoints" / "2"
    counts = events.index(("named", str(step / "manifest.json")))
    synced = {inode for what, inode in events[:counts] if what == "synced"}
    needed = [path for path in step.rglob("*") if path.name != "manifest.json"]
    needed += [step, step.parent, workdir, tmp_path]
    needed += [workdir / name for name in ("config.json", "tokenizer.json", "metrics.jsonl")]
    needed += list((cache / "prepared").glob("[!.]*/**/*"))
    missing = [str(path) for path in needed if path.stat().st_ino not in synced]
    assert len(needed) > 20 and not missing

    (removed,) = [
        n for n, event in enumerate(events) if event == ("removed", f"{step.parent}/1.removing")
    ]
    proof = step.stat().st_ino
    assert ("synced", proof) in events[counts:removed]


def test_prepared_data_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    folder = tmp_path / "prepared"
    with build_once(folder) as temporary:
        (temporary / "records").write_bytes(b"12")
    named = events.index(("named", str(folder)))
    synced = {inode for what, inode in events[:named] if what == "synced"}
    assert {path.stat().st_ino for path in (folder, *folder.iterdir())} <= synced
    assert ("synced", tmp_path.stat().st_ino) in events[named:]
