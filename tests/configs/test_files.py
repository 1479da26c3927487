"""Files that are whole or not there, and on the disk when it is said."""

import os
import stat
from pathlib import Path

import pytest

from configs.files import make_folder, new_path, sync_tree, write_durably


def test_durable_writing_replaces_the_whole_file(tmp_path):
    path = tmp_path / "config.json"
    write_durably(path, "the old one, which is longer")
    write_durably(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_durably(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_durable_writing_gives_the_modes_that_open_gives(tmp_path):
    (tmp_path / "opened").write_text("")
    write_durably(tmp_path / "written", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("opened", "written")}
    assert len(modes) == 1


def test_durable_writing_that_fails_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_durably(tmp_path / "folder", "no folder can be replaced by a file")
    with pytest.raises(UnicodeEncodeError):
        write_durably(tmp_path / "text", "\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def write_new(path, *, is_folder):
    with new_path(path) as temporary:
        if is_folder:
            temporary.mkdir()
        (temporary / "x" if is_folder else temporary).write_text("new")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_new_path_appears_when_it_is_whole(tmp_path, is_folder):
    path = tmp_path / "new"
    write_new(path, is_folder=is_folder)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert (path / "x" if is_folder else path).read_text() == "new"


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_came_to_the_path_meanwhile_stays(tmp_path, is_folder):
    path = tmp_path / "new"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        write_new(path, is_folder=is_folder)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_nothing_is_left_of_a_new_path_that_fails(tmp_path, is_folder, monkeypatch):
    def fail(path, target):
        raise OSError("failed")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="failed"):
        write_new(tmp_path / "new", is_folder=is_folder)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def synced(monkeypatch) -> list[int]:
    """The inodes of the files and folders that were brought to the disk, in order."""
    found: list[int] = []
    fsync = os.fsync

    def traced(descriptor: int) -> None:
        fsync(descriptor)
        found.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", traced)
    return found


def inodes(*paths: Path) -> list[int]:
    return [path.stat().st_ino for path in paths]


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_folder_after(
    tmp_path, synced, monkeypatch
):
    path, replace = tmp_path / "config.json", Path.replace

    def checked(temporary: Path, target: Path) -> None:
        assert synced == inodes(temporary)
        replace(temporary, target)

    monkeypatch.setattr(Path, "replace", checked)
    write_durably(path, "{}")
    assert synced == inodes(path, tmp_path)


def test_every_folder_that_is_made_has_its_name_on_the_disk(tmp_path, synced):
    make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == sorted(inodes(tmp_path, tmp_path / "a"))
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_tree_is_synced_whole(tmp_path, synced):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_text("1")
    (tmp_path / "a" / "b" / "two").write_text("2")
    sync_tree(tmp_path)
    assert sorted(synced) == sorted(inodes(tmp_path, *tmp_path.rglob("*")))
