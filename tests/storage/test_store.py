"""Objects are written as a whole, read in parts, listed, deleted, and created by one alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from configs.errors import StorageError
from storage.store import is_safe, open_store
from tests.storage.emulators import everywhere, exclusive


@everywhere
def test_objects_are_what_was_written(place, tmp_path):
    store = open_store(place)
    assert store.list() == {}
    store.write("a", b"0123456789")
    store.write("a", b"abcdefghij")
    (tmp_path / "file").write_bytes(bytes(range(256)) * 50_000)
    store.upload("folder/large", tmp_path / "file")
    store.write("folder/empty", b"")
    store.write("folder2/b", b"x")
    assert store.read("a") == b"abcdefghij" and store.read("a", 3, 6) == b"def"
    assert store.read("folder/large") == (tmp_path / "file").read_bytes()
    sizes = {name: entry.size for name, entry in store.list().items()}
    assert sizes == {"a": 10, "folder/empty": 0, "folder/large": 12_800_000, "folder2/b": 1}
    assert [*store.list("folder")] == ["folder/empty", "folder/large"]
    assert [*store.list("a")] == ["a"] and store.list("none") == {}
    below = store.below("folder")
    assert [*below.list()] == ["empty", "large"] and below.url == f"{store.url}/folder"
    store.delete(["a", "folder/large", "never/there"])
    assert [*store.list()] == ["folder/empty", "folder2/b"]
    with pytest.raises(FileNotFoundError):
        store.read("a")


@everywhere
def test_any_content_is_kept(place, tmp_path):
    store = open_store(place)
    ends = (b"\r", b"\n", b"\r\n", b"\0", b"--==0==--")
    for content in (b"", *(b"\r\n\0binary" + end for end in ends)):
        (tmp_path / "file").write_bytes(content)
        store.write("written", content)
        store.upload("uploaded", tmp_path / "file")
        assert store.read("written") == store.read("uploaded") == content


@everywhere
def test_the_version_changes_with_the_content(place):
    store = open_store(place)
    store.write("a", b"one")
    first = store.list()["a"]
    assert first == store.list()["a"]
    store.write("a", b"two")
    assert store.list()["a"].version != first.version


@exclusive
def test_one_alone_creates_an_object(place):
    store = open_store(place)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create("lock", b"%d" % n), range(8)))
    assert sum(made) == 1
    assert store.read("lock") == b"%d" % made.index(True)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_not_there_is_one_line(scheme, request):
    request.getfixturevalue(scheme)
    with pytest.raises(StorageError, match="there is no such bucket"):
        open_store(f"{scheme}://nobody-has-this/x").list()


def test_a_place_that_can_not_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        open_store(str(tmp_path / "file")).write("a/b", b"")


def test_names_that_lead_out_of_a_folder_are_known():
    assert is_safe("a/b.c") and is_safe("a/..b")
    for name in ("", "/a", "a/", "../a", "a/../b", "a//b", "./a", "a\0b"):
        assert not is_safe(name), name
