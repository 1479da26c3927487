"""Promises of what is told while files are opened, which is not prepared yet: how far it is, if it
takes long."""

import gzip
import hashlib
import random

import pytest

from configs.schema.data import Records, Table, TextFiles, WebDataset
from configs.schema.pairs import ParallelText
from configs.schema.pictures import ImageFolder, WebDatasetPictures
from configs.schema.sound import SoundLabels
from configs.schema.tokenizers import BPE
from data import file_stat_cache, progress, tokenizer_training
from data.file_stat_cache import FileStatCache
from data.preparation import prepare
from data.sources.files import file_sha256
from data.sources.registry import open_source
from tests.data.test_folders import pictures
from tests.data.test_webdataset import pack
from tests.data.test_webdataset import pictures as samples

LINES = 30_000


@pytest.fixture
def seen(monkeypatch) -> list[tuple]:
    """What is reported if everything takes long."""
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    return []


def stages(seen: list[tuple]) -> list[str]:
    return [*dict.fromkeys(stage for stage, *_ in seen)]


def noise(kind: str) -> list[str]:
    """Lines that nothing compresses, about 3 MB."""
    draw = random.Random(kind)
    return [f"{draw.getrandbits(360):x}" for _ in range(LINES)]


def large(folder, kind: str):
    """The settings of a source with a file of about 3 MB for training."""
    lines = noise(kind)
    if kind == "text":
        (folder / "a.txt").write_text("\n".join(lines))
        return TextFiles(path=str(folder))
    if kind == "compressed text":
        (folder / "a.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
        return TextFiles(path=str(folder))
    if kind == "records":
        (folder / "a.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
        return Records(path=str(folder))
    if kind == "table":
        rows = "".join(f"{line},{number % 2}\n" for number, line in enumerate(lines))
        (folder / "a.csv").write_text(f"text,label\n{rows}")
        return Table(path=str(folder))
    if kind == "pairs":
        for side in ("en", "de"):
            (folder / f"a.{side}").write_text("\n".join(lines))
        return ParallelText(path=str(folder))
    files = [(f"{number}.txt", "\n".join(lines[number::30]).encode()) for number in range(30)]
    path = pack(folder / "a.tar", files)
    if kind == "compressed shards":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return WebDataset(path=str(folder))


@pytest.mark.parametrize(
    "kind", ["text", "compressed text", "records", "table", "pairs", "shards", "compressed shards"]
)
def test_opening_a_large_file_tells_how_much_of_it_is_read(tmp_path, seen, kind):
    settings = large(tmp_path, kind)
    open_source(settings, lambda *what: seen.append(what))
    read = [what for what in seen if what[0] == "opening train"]
    total = read[0][2]
    assert 1 < total < 10 and {(what[2], what[3]) for what in read} == {(total, "MB")}
    done = [what[1] for what in read]
    assert done == sorted(done) and done[0] == 0 and done[-1] == total
    assert {*done} == {*range(total + 1)}


def test_looking_for_blank_rows_tells_how_much_is_read(tmp_path, seen):
    open_source(large(tmp_path, "table"), lambda *what: seen.append(what))
    done = [what[1] for what in seen if what[0] == "looking through train"]
    assert done == sorted(done) and {*done} == {*range(done[-1] + 1)}


def test_opening_many_files_tells_how_much_of_them_is_read(tmp_path, seen):
    folder = pictures(tmp_path / "set", "train/cat", "train/dog", "test/cat", "test/dog", count=9)
    open_source(ImageFolder(path=str(folder)), lambda *what: seen.append(what))
    assert stages(seen) == ["opening train", "opening test"]
    assert seen[0] == ("opening train", 0, 1, "MB")
    rows = "".join(f"set/train/cat/{n}.png,{n % 2}\n" for n in range(9))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    seen.clear()
    sounds = SoundLabels(path=str(tmp_path / "list.csv"), validation_fraction=0.0)
    open_source(sounds, lambda *what: seen.append(what))
    assert stages(seen) == ["looking through train", "opening train", "reading labels of train"]


def test_what_is_quick_is_not_told(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(progress, "DELAY_SECONDS", 3600.0)
    open_source(large(tmp_path, "text"), lambda *what: seen.append(what))
    assert seen == []


def test_files_that_have_not_changed_are_not_counted(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(file_stat_cache, "SETTLED_SECONDS", -1)
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_bytes(bytes(3 * 10**6))
    settings = TextFiles(path=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    for paths in ([old], [old, new]):
        seen.clear()
        with FileStatCache(settings, "test") as cache:
            found = cache.of_all(paths, file_sha256, lambda *what: seen.append(what), "reading")
        assert found == [hashlib.sha256(bytes(3 * 10**6)).hexdigest()] * len(paths)
        assert {total for _, _, total, _ in seen} == {3}


def test_every_pass_over_a_table_is_told_with_its_unit(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(tokenizer_training, "TRAINING_BYTES", 10**5)
    changes = {"tokenizer": BPE(vocabulary_size=300), "validation_fraction": 0.0}
    settings = large(tmp_path, "table").model_copy(update=changes)
    prepare(settings, progress=lambda *what: seen.append(what))
    assert stages(seen) == [
        "opening train", "looking through train", "reading labels of train", "reading texts",
        "reading the chosen texts", "counting words", "tokenising train",
    ]  # fmt: skip
    words = [what for what in seen if what[0] == "counting words"]
    assert {what[2:] for what in words} == {(words[-1][2], "pieces")}
    for stage in ("reading labels of train", "reading texts", "tokenising train"):
        *before, last = [what for what in seen if what[0] == stage]
        assert {what[3] for what in before} == {"pieces (estimated)"}
        assert last == (stage, LINES, LINES, "pieces")


def test_pictures_are_measured_and_their_labels_read_with_a_report(tmp_path, seen):
    path = pack(tmp_path / "a.tar", samples())
    settings = WebDatasetPictures(path=str(path), validation_fraction=0.0)
    prepare(settings, progress=lambda *what: seen.append(what))
    assert stages(seen) == [
        "opening train", "reading labels of train", "measuring train", "decoding train",
    ]  # fmt: skip
    measured = [what for what in seen if what[0] == "measuring train"]
    assert measured[-1] == ("measuring train", 12, 12, "pictures")
