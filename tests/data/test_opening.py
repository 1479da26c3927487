"""Promises of how files of text are opened: their first bytes decide, and what is no text is
refused."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from configs.errors import UsageError
from configs.schema.data import Conversations, Records, Table, TextFiles
from configs.schema.pairs import ParallelText
from configs.schema.sound import SoundLabels
from data.sources.opening import lines_of, open_text
from data.sources.registry import open_source
from data.sources.suffixes import COMPRESSED

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),  # with a small dictionary
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}
LINES = "".join(f"line {number} has naïve words\n" for number in range(99))
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"


def content_of(path: Path) -> bytes:
    with open_text(path) as file:
        return file.read()


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as raised:
        content_of(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def archive(kind: str) -> bytes:
    """An archive with one file of text."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as opened:
            opened.writestr("a.txt", LINES)
    else:
        with tarfile.open(fileobj=file, mode="w") as opened:
            member = tarfile.TarInfo("a.txt")
            member.size = len(LINES.encode())
            opened.addfile(member, io.BytesIO(LINES.encode()))
    return file.getvalue()


def test_all_suffixes_of_compressed_files_are_tested():
    assert (*COMPRESS,) == COMPRESSED


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_files_are_read_whatever_they_are_called(tmp_path, suffix):
    content = "".join(f"{random.Random(n).random()}\n" for n in range(20_000)).encode()
    packed = COMPRESS[suffix](content)
    for name in (f"a.jsonl{suffix}", "a.txt", "a.csv.gz"):
        (tmp_path / name).write_bytes(packed)
        assert content_of(tmp_path / name) == content
    (tmp_path / "joined").write_bytes(packed + packed)
    assert content_of(tmp_path / "joined") == 2 * content
    lines = [line for _, line in lines_of(tmp_path / "a.txt")]
    assert lines == content.splitlines(keepends=True)
    (tmp_path / f"plain{suffix}").write_bytes(content)
    assert content_of(tmp_path / f"plain{suffix}") == content
    (tmp_path / "empty").write_bytes(COMPRESS[suffix](b""))
    assert content_of(tmp_path / "empty") == b""


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_damaged_compressed_files_are_named(tmp_path, suffix):
    content = "".join(f"{random.Random(n).random()}\n" for n in range(20_000)).encode()
    packed = bytearray(COMPRESS[suffix](content))
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    assert refusal(path).startswith(f"{path} is damaged after ")
    if suffix == ".zst":  # this writer adds no checksum
        return
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    path.write_bytes(packed)
    assert refusal(path).startswith(f"{path} is damaged after ")


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    line = b"the same line, " * 99 + b"\n"
    (tmp_path / "a").write_bytes(COMPRESS[suffix](line * 2**12))
    tracemalloc.start()
    try:
        assert all(one == line for _, one in lines_of(tmp_path / "a"))
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


RUSSIAN = "Привет, как дела? Хорошо, а как у тебя?\n" * 20
OTHERS = {
    "UTF-16 with a mark": (LINES.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    "UTF-16 of the other order": (b"\xfe\xff" + LINES.encode("utf-16-be"), "is UTF-16 text"),
    "UTF-32 with a mark": (LINES.encode("utf-32"), "is UTF-32 text"),
    "UTF-16 without a mark": (LINES.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "UTF-16 without a mark, reversed": (LINES.encode("utf-16-be"), "is UTF-16BE text"),
    "Russian in UTF-16": (RUSSIAN.encode("utf-16-le"), "is UTF-16LE text"),
    "UTF-32 without a mark": (LINES.encode("utf-32-le"), "is UTF-32LE text"),
    "a pointer of Git LFS": (LFS.encode(), "is a pointer of Git LFS, not the file itself"),
    "a ZIP archive": (archive("zip"), "is a ZIP archive"),
    "a tar archive": (archive("tar"), "is a tar archive"),
    "a compressed tar archive": (gzip.compress(archive("tar")), "is a tar archive"),
}


def sources(folder: Path, content: bytes, suffix: str = "") -> dict:
    """Returns the settings of each kind of source that reads files of text with this content."""
    folder.mkdir()
    names = ("a.txt", "a.jsonl", "a.csv", "a.tsv", "train.en", "train.de")
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(content)
    lines, kinds = str(folder / f"a.jsonl{suffix}"), {"validation_fraction": 0.0}
    return {
        "text_files": TextFiles(path=str(folder / f"a.txt{suffix}"), **kinds),
        "records": Records(path=lines, **kinds),
        "conversations": Conversations(path=lines, **kinds),
        "table": Table(path=str(folder / f"a.csv{suffix}"), **kinds),
        "parallel_text": ParallelText(path=str(folder / "train"), **kinds),
        "sound_labels": SoundLabels(path=str(folder / f"a.tsv{suffix}"), **kinds),
    }


@pytest.mark.parametrize("case", OTHERS)
def test_every_source_refuses_what_is_no_text(tmp_path, case):
    content, told = OTHERS[case]
    for name, settings in sources(tmp_path / "set", content).items():
        with pytest.raises(UsageError) as raised:
            open_source(settings)
        assert told in str(raised.value), name
        assert str(tmp_path / "set") in str(raised.value), name


def test_bytes_that_may_be_replaced_do_not_make_text_of_other_files(tmp_path):
    path = tmp_path / "a.txt"
    for content in (LINES.encode("utf-16"), LINES.encode("utf-16-le"), LFS.encode()):
        path.write_bytes(content)
        with pytest.raises(UsageError):
            open_source(TextFiles(path=str(path), invalid_utf8="replace"))


def test_a_few_nuls_make_no_other_encoding(tmp_path):
    path = tmp_path / "a.txt"
    for content in (
        b"a\0b",
        b"words\0and\0" * 99,
        LINES.encode() + b"\0\0\0end",
        "你好\n".encode(),
    ):
        path.write_bytes(content)
        assert content_of(path) == content


@pytest.mark.parametrize("suffix", ["", *COMPRESSED])
def test_every_source_reads_compressed_files(tmp_path, suffix):
    pack = COMPRESS.get(suffix, bytes)
    kinds = {"validation_fraction": 0.0}

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}{suffix}").write_bytes(pack(text.encode()))
        return str(tmp_path / f"{name}{suffix}")

    def examples(settings) -> list[dict]:
        return [*open_source(settings).splits["train"]]

    (one,) = examples(TextFiles(path=write("a.txt", LINES), **kinds))
    assert one["text"] == LINES
    path = write("a.jsonl", json.dumps({"text": "x", "prompt": "a", "answer": "b"}) + "\n")
    assert examples(Records(path=path, **kinds))[0]["text"] == "x"
    (conversation,) = examples(Conversations(path=path, **kinds))
    assert [one["content"] for one in conversation["messages"]] == ["a", "b"]
    path = write("a.csv", "text,label\nx,1\n")
    assert examples(Table(path=path, **kinds))[0]["label"] == "1"
    for side in ("en", "de"):
        write(f"talk.{side}", f"{side}\n")
    (pair,) = examples(ParallelText(path=str(tmp_path / "talk"), **kinds))
    assert (pair["source"], pair["target"]) == ("en", "de")
    (tmp_path / "sound").touch()
    path = write("a.tsv", "path\tlabel\nsound\ta\nsound\tb\n")
    assert open_source(SoundLabels(path=path, **kinds)).classes == ("a", "b")


def test_lines_end_at_carriage_returns_only_where_there_are_no_line_feeds(tmp_path):
    path = tmp_path / "a"
    for content, lines in (
        (b"a\rb\rc", [b"a\n", b"b\n", b"c"]),
        (b"a\rb\r", [b"a\n", b"b\n"]),
        (b"a\rb\nc\r\n", [b"a\rb\n", b"c\r\n"]),
        (b"", []),
    ):
        path.write_bytes(content)
        assert [line for _, line in lines_of(path)] == lines
        assert [number for number, _ in lines_of(path)] == [*range(1, len(lines) + 1)]
