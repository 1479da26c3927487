"""A step in a store is whole or not there, and whatever is damaged is found and named."""

import json
import shutil
from pathlib import Path

import pytest

from configs.errors import StorageError
from storage.store import open_store
from tests.golden.workdirs import WORKDIRS
from tests.storage.emulators import everywhere
from training.manifest import Damaged, digest_of, verify
from training.remote_steps import (
    UNFINISHED,
    clean,
    fetch_step,
    remove_remote_step,
    steps_in,
    unfinished_in,
    upload_step,
    verify_remote,
)

STEP = WORKDIRS / "attention_text" / "checkpoints" / "12"


def flip(store, name: str) -> None:
    content = bytearray(store.read(name))
    content[len(content) // 2] ^= 4
    store.write(name, bytes(content))


@everywhere
def test_a_step_goes_there_and_comes_back(place, tmp_path):
    run = open_store(place)
    store = run.below("checkpoints/12")
    size = upload_step(STEP, store)
    assert [*steps_in(run)] == [12] and steps_in(store) == {12: store}
    assert not unfinished_in(run.below("checkpoints")) and UNFINISHED not in store.list()
    assert verify_remote(store) == verify(STEP)
    assert fetch_step(store, tmp_path / "back") == size
    assert verify(tmp_path / "back") == verify(STEP)
    run.write("checkpoints/notes.txt", b"of somebody else")
    store.write("notes.txt", b"of somebody else")
    remove_remote_step(store)
    assert sorted(run.list()) == ["checkpoints/12/notes.txt", "checkpoints/notes.txt"]
    assert not steps_in(run)


@everywhere
def test_altered_truncated_and_removed_objects_are_named(place, tmp_path):
    store = open_store(place).below("12")
    upload_step(STEP, store)
    names = sorted(name for name, entry in store.list().items() if entry.size > 20)
    names.remove("manifest.json")
    for name in names[:4]:
        before = store.read(name)
        for damage, what in (
            (lambda name: flip(store, name), "is damaged"),
            (lambda name, short=before[:-1]: store.write(name, short), "bytes"),
            (lambda name: store.delete([name]), "is missing"),
        ):
            damage(name)
            for check in (verify_remote, lambda store: fetch_step(store, tmp_path / "copy")):
                with pytest.raises(Damaged, match=what) as raised:
                    check(store)
                assert f"{store.url}/{name} " in str(raised.value)
            assert not [*tmp_path.glob("**/copy"), *tmp_path.glob("**/.copy*")]
            store.write(name, before)
    assert verify_remote(store)
    flip(store, "manifest.json")
    with pytest.raises(Damaged, match=r"manifest\.json is damaged"):
        verify_remote(store)


class Failing:
    """A store whose connection ends after some files."""

    def __init__(self, store, files: int):
        self._store, self._left = store, files

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def upload(self, name: str, path: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise StorageError("the network is gone")
        self._store.upload(name, path)


@everywhere
def test_a_step_that_was_cut_off_does_not_count_and_is_written_again(place, tmp_path):
    run = open_store(place)
    store = run.below("checkpoints/12")
    with pytest.raises(StorageError, match="the network is gone"):
        upload_step(STEP, Failing(store, 3))
    assert not steps_in(run) and [*unfinished_in(run.below("checkpoints"))] == [12]
    with pytest.raises(Damaged, match="never finished"):
        fetch_step(store, tmp_path / "copy")

    # The machine is gone; another one has saved this step again, with other names of files.
    other = Path(shutil.copytree(STEP, tmp_path / "12"))
    manifest = json.loads((other / "manifest.json").read_text())
    name = next(name for name in manifest["files"] if "/d/" in name)
    (other / name).rename(other / f"{name}0")
    manifest["files"][f"{name}0"] = manifest["files"].pop(name)
    manifest["digest"] = digest_of(manifest)
    (other / "manifest.json").write_text(json.dumps(manifest))
    upload_step(other, store)
    assert store.list().keys() == {*manifest["files"], "manifest.json"}
    assert verify_remote(store) == manifest


@everywhere
def test_what_no_run_wrote_is_neither_used_nor_deleted(place):
    run = open_store(place)
    store = run.below("checkpoints/12")
    store.write("weights.bin", b"of another program")
    with pytest.raises(StorageError, match="is there already, and no run wrote it"):
        upload_step(STEP, store)
    clean(store)
    assert [*run.list()] == ["checkpoints/12/weights.bin"]


def test_one_that_is_no_writer_any_more_does_not_finish_a_step(tmp_path):
    store = open_store(str(tmp_path / "place")).below("12")
    with pytest.raises(StorageError, match="another process is the writer"):
        upload_step(STEP, store, may_finish=lambda: False)
    assert "manifest.json" not in store.list()


def test_a_step_that_is_damaged_here_is_not_copied(tmp_path):
    folder, store = Path(shutil.copytree(STEP, tmp_path / "12")), open_store(str(tmp_path / "to"))
    victim = next(folder.glob("model/d/*"))
    victim.write_bytes(victim.read_bytes()[::-1])
    with pytest.raises(Damaged, match="is damaged") as raised:
        upload_step(folder, store)
    assert str(victim) in str(raised.value)
    assert "manifest.json" not in store.list()


def test_a_manifest_can_not_name_files_outside_of_its_step(tmp_path):
    folder = Path(shutil.copytree(STEP, tmp_path / "12"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../escaped"] = manifest["files"]["commit_success.txt"]
    manifest["digest"] = digest_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="names a file outside of the step"):
        fetch_step(open_store(str(folder)), tmp_path / "a" / "b" / "copy")
    assert not list(tmp_path.rglob("escaped"))
