"""Data in object stores is copied once, verified, and read like any file."""

import json
import os
from pathlib import Path

import pytest

from configs.errors import StorageError, UsageError
from configs.schema.data import Mixture, Records, TextFiles
from configs.schema.pairs import ParallelText
from configs.schema.sound import SoundTranscripts
from configs.schema.tokenizers import Bytes, Characters, TokenizerFile
from data.preparation import prepare
from data.remote_files import copy_objects, local_copy
from storage.store import FolderStore, ObjectStore, open_store

SCHEMES = pytest.mark.parametrize("scheme", ["gs", "s3"])


@pytest.fixture
def bucket(request, scheme) -> str:
    return request.getfixturevalue(scheme).bucket()


def upload(folder: Path, url: str) -> None:
    store = open_store(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)


def text_settings(path: str, cache: Path, **more) -> TextFiles:
    given = {"path": path, "cache_dir": str(cache), "sequence_length": 16, "tokenizer": Bytes()}
    return TextFiles(**given | more)


@SCHEMES
def test_texts_in_a_store_are_those_on_the_disk(bucket, corpus, tmp_path):
    upload(corpus, f"{bucket}/texts")
    told = []
    settings = text_settings(f"{bucket}/texts", tmp_path / "cache")
    found = prepare(settings, inform=told.append)
    assert found.fingerprint == prepare(text_settings(str(corpus), tmp_path / "own")).fingerprint
    assert f"({bucket}/texts)" in told[0], "the splits are told with the place that was given"


@SCHEMES
def test_files_prefixes_patterns_mixtures_and_tokenizers(bucket, corpus, sounds, tmp_path):
    cache = tmp_path / "cache"
    rows = tmp_path / "rows"
    rows.mkdir()
    for number in range(3):
        lines = [json.dumps({"text": f"{number} and {n}"}) + "\n" for n in range(20)]
        (rows / f"part-{number:03}.jsonl").write_text("".join(lines))
    for language in ("en", "de"):
        (rows / f"pairs.{language}").write_text("".join(f"{language} {n}\n" for n in range(30)))
    upload(rows, f"{bucket}/rows")
    upload(corpus, f"{bucket}/texts")
    upload(sounds, f"{bucket}/sounds")
    common = {"sequence_length": 16, "tokenizer": Bytes()}

    def same(kind, path: str, **fields) -> None:
        there = prepare(kind(path=f"{bucket}/{path}", cache_dir=str(cache), **fields))
        local = {"rows": rows, "texts": corpus, "sounds": sounds}[path.partition("/")[0]]
        given = str(local / path.partition("/")[2]).rstrip("/")
        here = prepare(kind(path=given, cache_dir=str(tmp_path / "own"), **fields))
        assert there.fingerprint == here.fingerprint, path

    same(Records, "rows/part-000.jsonl", **common)
    same(Records, "rows/part-{000..001}.jsonl", **common)
    same(Records, "rows/part-*.jsonl", **common)
    same(TextFiles, "texts/part1/*.txt", **common)
    same(ParallelText, "rows/pairs", source_language="en", target_language="de")
    same(SoundTranscripts, "sounds", tokenizer=Characters())

    parts = (f"text_files:{bucket}/texts", f"records:{bucket}/rows/part-000.jsonl")
    mixed = prepare(Mixture(parts=parts, cache_dir=str(cache), **common))
    parts = (f"text_files:{corpus}", f"records:{rows}/part-000.jsonl")
    assert mixed.fingerprint == prepare(Mixture(parts=parts, **common)).fingerprint

    plain = prepare(text_settings(str(corpus), cache, tokenizer=Characters()))
    plain.tokenizer.save(tmp_path / "rows" / "tokenizer.json")
    upload(rows, f"{bucket}/rows")
    path = f"{bucket}/rows/tokenizer.json"
    other = prepare(text_settings(str(corpus), cache, tokenizer=TokenizerFile(path=path)))
    assert other.fingerprint == plain.fingerprint

    with pytest.raises(UsageError, match="give its folder"):
        prepare(SoundTranscripts(path=f"{bucket}/sounds/train.jsonl", cache_dir=str(cache)))
    for missing in ("nothing", "rows/part-009.jsonl", "none-*.txt"):
        with pytest.raises(UsageError, match=r"there is no such object|no object matches"):
            local_copy(f"{bucket}/{missing}", text_settings("x", cache))


@SCHEMES
def test_only_what_has_changed_is_copied_again(bucket, corpus, tmp_path, monkeypatch):
    upload(corpus, f"{bucket}/texts")
    settings, read = text_settings(f"{bucket}/texts", tmp_path / "cache"), []
    plain = ObjectStore.read

    def traced(self, name, *arguments):
        read.append(name)
        return plain(self, name, *arguments)

    monkeypatch.setattr(ObjectStore, "read", traced)
    copy = local_copy(settings.path, settings)
    assert len(read) == 30
    assert local_copy(settings.path, settings) == copy and len(read) == 30

    victim, touched = copy / "part0/document03.txt", copy / "part0/document06.txt"
    content = victim.read_bytes()
    victim.write_bytes(content.replace(b"t", b"T"))
    os.utime(touched)
    (copy / "part0/stranger.txt").write_text("is not in the store")
    local_copy(settings.path, settings)
    assert read[30:] == ["texts/part0/document03.txt"] and victim.read_bytes() == content
    assert not (copy / "part0/stranger.txt").exists()

    store = open_store(settings.path)
    store.write("part0/document00.txt", b"other words\n")
    store.delete(["part2/document02.txt"])
    before = prepare(settings).fingerprint
    assert (copy / "part0/document00.txt").read_bytes() == b"other words\n"
    assert not (copy / "part2/document02.txt").exists()
    assert before != prepare(text_settings(str(corpus), tmp_path / "own")).fingerprint


@SCHEMES
def test_an_object_that_changes_while_it_is_copied_is_named(bucket, tmp_path, monkeypatch):
    store = open_store(bucket)
    store.write("texts/a.txt", b"a" * 1000)
    settings, plain = text_settings(f"{bucket}/texts", tmp_path / "cache"), ObjectStore.read

    def changing(self, name, *arguments):
        found = plain(self, name, *arguments)
        store.write("texts/a.txt", b"b" * 1000)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "read", changing)
        with pytest.raises(UsageError, match=rf"{bucket}/texts/a.txt changed while it was copied"):
            local_copy(settings.path, settings)
    assert (local_copy(settings.path, settings) / "a.txt").read_bytes() == b"b" * 1000


@SCHEMES
def test_wrong_bytes_are_found_by_the_md5_of_the_store(bucket, tmp_path, monkeypatch):
    open_store(bucket).write("texts/a.txt", b"a" * 1000)
    settings, plain = text_settings(f"{bucket}/texts", tmp_path / "cache"), ObjectStore.read
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "read", lambda *of: plain(*of).replace(b"aaa", b"aba", 1))
        with pytest.raises(StorageError, match=r"texts/a\.txt: what came has another MD5"):
            local_copy(settings.path, settings)
    assert (local_copy(settings.path, settings) / "a.txt").read_bytes() == b"a" * 1000


@SCHEMES
def test_after_an_interruption_the_rest_alone_is_copied(bucket, tmp_path, request, scheme):
    size, network = 40 << 20, request.getfixturevalue(scheme).network
    content = os.urandom(1 << 20) * 40
    open_store(bucket).write("texts/a.txt", content)
    settings, read, plain = text_settings(f"{bucket}/texts", tmp_path), [], ObjectStore.read

    def failing(self, name, start=0, end=None):
        read.append(start)
        if len(read) == 3:
            raise StorageError("the network is gone")
        return plain(self, name, start, end)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ObjectStore, "read", failing)
        with pytest.raises(StorageError, match="the network is gone"):
            local_copy(settings.path, settings)
        copy = local_copy(settings.path, settings)
    assert read == [0, 16 << 20, 32 << 20, 32 << 20]
    assert (copy / "a.txt").read_bytes() == content and len(content) == size
    assert not network.is_cut


def test_without_room_nothing_is_copied(tmp_path, monkeypatch):
    source = FolderStore(tmp_path / "source")
    source.write("a", b"abc")
    room = type("Room", (), {"free": 2})
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    (tmp_path / "copy").mkdir()
    with pytest.raises(UsageError, match=r"0\.0 MB are to be copied.*give another folder"):
        copy_objects(source, source.list(), tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


def test_names_that_lead_out_of_the_folder_are_refused(s3, tmp_path):
    bucket = s3.bucket()
    open_store(bucket).write("texts/../../escaped", b"x")
    with pytest.raises(UsageError, match="can't be a path"):
        local_copy(f"{bucket}/texts", text_settings("x", tmp_path / "cache"))
    assert not list(tmp_path.rglob("escaped"))
