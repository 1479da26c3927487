"""Promises of what is remembered of files: a start reads none again, and misses no change."""

import os
import time
from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.schema.data import Records, TextFiles
from configs.schema.tokenizers import Bytes
from data import file_stat_cache, preparation
from data.file_stat_cache import FileStatCache
from tests.data.test_records import write


@pytest.fixture
def read(monkeypatch, corpus, tmp_path):
    """Prepares the corpus; returns its fingerprint and the names of the files that were read."""
    settings = TextFiles(
        path=str(corpus),
        cache_dir=str(tmp_path / "cache"),
        tokenizer=Bytes(),
        sequence_length=16,
        validation_fraction=0.0,
    )
    found: list[str] = []
    of = FileStatCache.of

    def spy(self, path, find):
        return of(self, path, lambda path: found.append(path.name) or find(path))

    monkeypatch.setattr(FileStatCache, "of", spy)
    monkeypatch.setattr(file_stat_cache, "SETTLED_SECONDS", 0.05)

    def prepare() -> tuple[str, list[str]]:
        time.sleep(0.06)
        found.clear()
        return preparation.prepare(settings).fingerprint, sorted(found)

    return prepare


def documents(corpus: Path) -> list[Path]:
    return sorted(corpus.rglob("*.txt"), key=lambda path: path.name)


def test_a_second_start_reads_no_file(read, corpus):
    first, names = read()
    assert names == [path.name for path in documents(corpus)]
    assert read() == (first, [])


def test_only_what_changed_is_read_again(read, corpus, tmp_path):
    first, _ = read()
    one, other, third = documents(corpus)[3:6]
    text, status = one.read_text(), one.stat()
    one.write_text(text.replace(text[-3], "#"))  # as long as before
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))  # and as old, it says
    changed, names = read()
    assert changed != first and names == [one.name]
    one.write_text(text)
    assert read() == (first, [one.name])

    copy = tmp_path / "copy"
    copy.write_text(other.read_text().upper())
    os.utime(copy, ns=(other.stat().st_atime_ns, other.stat().st_mtime_ns))
    copy.rename(other)
    third.unlink()
    (corpus / "new.txt").write_text("new\n")
    assert read()[1] == [other.name, "new.txt"]
    assert read()[1] == []


def test_a_file_that_changed_just_now_is_not_relied_on(read, corpus, monkeypatch):
    monkeypatch.setattr(file_stat_cache, "SETTLED_SECONDS", 3600)
    assert read()[1] == read()[1] == [path.name for path in documents(corpus)]


def test_a_file_that_changes_while_it_is_read_is_not_relied_on(tmp_path):
    settings = TextFiles(cache_dir=str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_text("one")

    def find(path: Path) -> str:
        text = path.read_text()
        path.write_text("two")
        return text

    for expected in ("one", "two"):
        with FileStatCache(settings, "test") as facts:
            assert facts.of(path, find) == expected


def test_what_is_lost_or_damaged_is_found_out_again(read, tmp_path):
    first, names = read()
    (file,) = (tmp_path / "cache" / "files").iterdir()
    for content in (b"", b"{", b"\xff", b"[]"):
        file.write_bytes(content)
        assert read() == (first, names)
        assert read() == (first, [])
    file.unlink()
    assert read() == (first, names)


def test_a_mistake_leaves_nothing_behind(read, corpus, tmp_path):
    (corpus / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match="not UTF-8"):
        read()
    assert not (tmp_path / "cache").exists()


def test_records_are_remembered_too(tmp_path, monkeypatch):
    monkeypatch.setattr(file_stat_cache, "SETTLED_SECONDS", 0.05)
    path = write(tmp_path / "all.jsonl")
    settings = Records(
        path=str(path), tokenizer=Bytes(), sequence_length=32, cache_dir=str(tmp_path / "cache")
    )
    time.sleep(0.06)
    first = preparation.prepare(settings).fingerprint
    monkeypatch.setattr("data.sources.tables.file_sha256", None)  # not called
    assert preparation.prepare(settings).fingerprint == first
