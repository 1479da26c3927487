"""Promises of records: JSON lines and Parquet are documents, and wrong ones are named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from configs.errors import UsageError
from configs.schema.data import Cleaning, Records
from configs.schema.tokenizers import Bytes
from data.codecs.tokenizers import SEPARATOR
from data.preparation import prepare
from data.sources.registry import open_source
from tests.data.test_preparation import text_of

TEXTS = [f"document {number}: naïve 你好 😀\n" * (1 + number % 3) for number in range(60)]


def write(path: Path, texts=TEXTS, **more) -> Path:
    """A file of records of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table = pa.table({"id": range(len(texts)), "text": texts})
        pa.parquet.write_table(table, path, row_group_size=7, **more)
        return path
    lines = "".join(
        json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)
    )
    content = f"{lines}\n \n".encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def settings(path, **changes) -> Records:
    return Records(path=str(path), tokenizer=Bytes(), sequence_length=32, **changes)


def texts(source, split: str) -> list[str]:
    found: list[str] = []
    for example in source.splits[split]:
        if example["piece"] == 0:
            found.append("")
        found[-1] += example["text"]
    return found


def refusal(path, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(path, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_every_record_is_a_document_of_one_split(tmp_path, suffix):
    path = write(tmp_path / f"all.{suffix}", [*TEXTS, ""])
    dataset = prepare(settings(path, validation_fraction=0.3))
    parts = {split: text_of(dataset, split).split(SEPARATOR)[1:] for split in dataset.splits}
    assert 5 < len(parts["validation"]) < 35
    assert sorted(parts["train"] + parts["validation"]) == sorted([*TEXTS, ""])
    source = open_source(settings(path, validation_fraction=0.3))
    for split, found in parts.items():
        assert texts(source, split) == found  # in the order of the file
        assert len(source.splits[split]) >= len(found)
    assert [*open_source(settings(path, validation_fraction=0.0)).splits] == ["train"]


def test_the_formats_hold_out_the_same_and_new_records_change_nothing(tmp_path):
    held_out = [
        texts(open_source(settings(write(tmp_path / name))), "validation")
        for name in ("a/x.jsonl", "b/x.jsonl")
    ]
    more = write(tmp_path / "c" / "x.jsonl", [*TEXTS, *(f"new {n}" for n in range(40))])
    assert held_out[0] == held_out[1]
    after = texts(open_source(settings(more)), "validation")
    assert [text for text in after if text in TEXTS] == held_out[0]


def test_files_and_folders_are_splits(tmp_path):
    for folder in (tmp_path / "files", tmp_path / "folders"):
        nested = folder.name == "folders"
        write(folder / ("train/a.jsonl" if nested else "train-00000-of-00002.parquet"), ["a"])
        write(folder / ("train/b.jsonl.gz" if nested else "train-00001-of-00002.parquet"), ["b"])
        write(folder / ("validation/v.parquet" if nested else "validation.jsonl.gz"), ["v"])
        write(folder / ("test/t.jsonl" if nested else "test.jsonl"), ["t"])
        (folder / "README.md").write_text("about it")
        source = open_source(settings(folder))
        assert {split: texts(source, split) for split in source.splits} == {
            "train": ["a", "b"],
            "validation": ["v"],
            "test": ["t"],
        }
    source = open_source(settings(tmp_path / "f*" / "t*.jsonl", validation_fraction=0.0))
    assert texts(source, "train") == ["t"]


def test_long_records_come_in_pieces(tmp_path):
    long = "many words of one document " * 3000
    dataset = prepare(settings(write(tmp_path / "a.jsonl", [long, "short"] * 3)))
    parts = [text_of(dataset, split).split(SEPARATOR)[1:] for split in dataset.splits]
    assert sorted(text for part in parts for text in part) == [long] * 3 + ["short"] * 3


def test_another_field_another_record_is_another_set(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "body": "three"}\n' * 4)
    first = prepare(settings(path))
    assert prepare(settings(path, text_field="body")).fingerprint != first.fingerprint
    path.write_text('{"text": "two", "body": "three"}\n' * 4)
    assert prepare(settings(path)).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "cut', "line 3 is no JSON: Unterminated string"),
        (b'{"txt": "a", "id": 3}', "line 3 has no field 'text', but txt, id: did you mean "
         "data.text_field=txt?"),
        (b'{"id": 3}', "line 3 has no field 'text', but id: set data.text_field"),
        (b"{}", "line 3 has no field 'text', but none"),
        (b'{"text": 5, "body": "b"}', "field 'text' holds a number, not text: text is in body"),
        (b'{"text": null}', "line 3: field 'text' holds null, not text"),
        (b'{"text": ["a"]}', "holds an array, not text"),
        (b'["text"]', "line 3 holds an array, not an object with fields"),
        (b'{"text": "\xff"}', "line 3 is not UTF-8 text: byte 0xff. Convert the file, or set "
         "data.invalid_utf8=replace"),
        (b'{"text": "\\ud800"}', "line 3: field 'text' spells half a character, \\ud800"),
        ("text".encode("utf-16"), "line 3 is not UTF-8 text: byte 0xff. Convert the file, from "),
        (b"[" * 100_000, "line 3 is no JSON"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, told):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    message = refusal(path, validation_fraction=0.0)
    assert str(path) in message and told in message


def test_bytes_that_are_no_utf8_become_the_replacement_character(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a\xff"}\n{"text": "b\\ud800c"}\n')
    source = open_source(settings(path, invalid_utf8="replace", validation_fraction=0.0))
    assert texts(source, "train") == ["a\ufffd", "b\ufffd\ufffd\ufffdc"]


def test_wrong_columns_of_parquet_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    assert "a.parquet has no field 'text', but body, id" in refusal(path)
    message = refusal(path, text_field="id")
    assert "field 'id' holds int64, not text: text is in body" in message
    pa.parquet.write_table(pa.table({"text": ["a", None, "b"]}), path)
    assert "a.parquet, row 1: field 'text' holds null, not text" in refusal(path)


def test_other_kinds_of_text_in_parquet_are_text(tmp_path):
    path = tmp_path / "a.parquet"
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        pa.parquet.write_table(pa.table({"text": pa.array(["é", "b"]).cast(kind)}), path)
        source = open_source(settings(path, validation_fraction=0.0))
        assert texts(source, "train") == ["é", "b"]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "parquet"])
def test_damage_is_named(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", TEXTS * 50)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    assert f"a.{suffix} is" in refusal(path)
    content[len(content) // 2 :][:40] = bytes(40)
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    assert f"a.{suffix} is damaged after" in refusal(path)
    path.write_bytes(b"something else entirely")
    assert f"a.{suffix}" in refusal(path)


def test_files_that_are_no_records_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    kinds = "records are read from .csv, .tsv, .jsonl, .parquet (text also with .gz, .bz2, "
    assert kinds in refusal(tmp_path / "notes.txt")
    assert kinds in refusal(tmp_path)
    assert "no such file or folder" in refusal(tmp_path / "gone.jsonl")
    one = write(tmp_path / "one.jsonl", ["only"])
    assert "of 1 records nothing is left for validation" in refusal(one)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "holds no record for train" in refusal(tmp_path / "empty.jsonl")


def test_a_csv_is_read_if_it_is_meant_or_nothing_else_is_there(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    for path in (tmp_path / "a.csv", tmp_path, tmp_path / "*.csv"):
        source = open_source(settings(path, validation_fraction=0.0))
        assert texts(source, "train") == ["one", "two"]
    write(tmp_path / "b.jsonl", ["three"])
    source = open_source(settings(tmp_path, validation_fraction=0.0))
    assert texts(source, "train") == ["three"]


def test_records_are_cleaned(tmp_path):
    path = write(tmp_path / "a.jsonl", [*TEXTS, *TEXTS, "", ""])
    cleaning = Cleaning(duplicates="exact", minimum_characters=1)
    dataset = prepare(settings(path, cleaning=cleaning))
    before = sum(counts["documents"][0] for counts in dataset.cleaning.values())
    after = sum(counts["documents"][1] for counts in dataset.cleaning.values())
    assert (before, after) == (122, 60)
