"""Promises of labelled texts: tables of any kind, each row a text with its label."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from configs.errors import UsageError
from configs.schema.data import Table
from configs.schema.tokenizers import BPE, Bytes
from data.batches import Batches
from data.dataset import Dataset
from data.preparation import prepare
from data.show import data_table, describe_batch

ROWS = [(f'text {number}, with "quotes"\tand naïve 你好', "good" if number % 3 else "bad")
        for number in range(40)]  # fmt: skip
ROOT = Path(__file__).parents[2]
SUFFIXES = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet")


def write(path: Path, rows=ROWS, head=("text", "label")) -> Path:
    """A table of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        columns = dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))
        pa.parquet.write_table(pa.table(columns), path)
        return path
    plain = path.with_name("plain")
    with plain.open("w", newline="", encoding="utf-8") as file:
        if kind == "csv":
            csv.writer(file).writerows([head, *rows])
        elif kind == "tsv":
            lines = [[str(value).replace("\t", " ") for value in row] for row in (head, *rows)]
            file.writelines("\t".join(line) + "\n" for line in lines)
        else:
            file.writelines(json.dumps(dict(zip(head, row, strict=True))) + "\n" for row in rows)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def settings(path, **changes) -> Table:
    return Table(path=str(path), **({"tokenizer": Bytes(), "sequence_length": 64} | changes))


def examples(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    one = dataset.splits[split]
    batch = Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]
    assert (
        batch["tokens"].shape == batch["segments"].shape == (one.examples, dataset.spec.max_length)
    )
    assert batch["weights"].all()
    rows = zip(batch["tokens"], batch["segments"], batch["label"], strict=True)
    return [(dataset.tokenizer.decode(t[s > 0]), dataset.spec.classes[n]) for t, s, n in rows]


def refusal(path, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(path, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def name_of(suffix: str, row: int) -> str:
    """What row number `row` of a table is called: by its line, where it has lines."""
    if suffix == "parquet":
        return f"all.parquet row {row}"
    return f"all.{suffix}:{row + (1 if suffix.startswith('jsonl') else 2)}"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_row_is_an_example_of_one_split(tmp_path, suffix):
    path = write(tmp_path / f"all.{suffix}")
    dataset = prepare(settings(path, validation_fraction=0.3))
    assert dataset.spec.model_arguments() == {
        "vocabulary_size": 257,
        "max_length": 64,
        "num_classes": 2,
    }
    assert dataset.spec.classes == ("bad", "good")
    found = examples(dataset, "train") + examples(dataset, "validation")
    expected = [(t.replace("\t", " "), n) for t, n in ROWS] if suffix == "tsv" else ROWS
    assert sorted(found) == sorted(expected)
    names = [name for one in dataset.splits.values() for name in one.names()]
    rows = {name_of(suffix, row): one for row, one in enumerate(expected)}
    assert [rows[name] for name in names] == found
    assert len(examples(dataset, "validation")) > 3


def test_a_folder_may_hold_a_table_for_each_split(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.csv", [(f"{split} {n}", n % 2) for n in range(6)])
    dataset = prepare(settings(tmp_path))
    for split in dataset.splits:
        assert examples(dataset, split) == [(f"{split} {n}", str(n % 2)) for n in range(6)]
    assert [*dataset.splits] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [((10, 9, 2), ("2", "9", "10")), ((True, False, True), ("false", "true")),
     (("b", "a", "10"), ("10", "a", "b")), (("10", "9", "9"), ("9", "10"))],
)  # fmt: skip
def test_labels_are_text_integers_or_booleans(tmp_path, labels, classes):
    rows = [(f"text {number}", label) for number, label in enumerate(labels)]
    dataset = prepare(settings(write(tmp_path / "a.jsonl", rows), validation_fraction=0.0))
    assert dataset.spec.classes == classes
    names = [json.dumps(x) if isinstance(x, bool) else str(x) for x in labels]
    assert [name for _, name in examples(dataset, "train")] == names


def test_long_texts_are_cut_and_told(tmp_path):
    rows = [("short", 0), ("x" * 70_000 + "y", 1), ("z" * 64, 1)]
    told: list[str] = []
    table = settings(write(tmp_path / "a.csv", rows), validation_fraction=0.0)
    dataset = prepare(table, warn=told.append)
    assert told == ["1 of 3 texts of train are longer than data.sequence_length=64 and cut"]
    assert ("cut", "1") in data_table(dataset)
    assert [text for text, _ in examples(dataset, "train")] == ["short", 64 * "x", 64 * "z"]


def test_labels_that_differ_in_capitals_alone_are_classes_of_their_own_and_told(tmp_path):
    rows = [("a", "Dog"), ("b", "dog"), ("c", "hot dog"), ("d", "Hot  Dog"), ("e", "cat")]
    told: list[str] = []
    made = settings(write(tmp_path / "all.csv", rows), validation_fraction=0.0)
    assert len(prepare(made, warn=told.append).spec.classes) == 5
    assert told == [
        "classes that differ in capitals or spaces alone are told apart: 'Dog' and 'dog', "
        "'Hot  Dog' and 'hot dog'"
    ]


def told_of(path: Path) -> tuple[tuple[str, ...], list[str]]:
    """The classes of a table, and the warnings."""
    told: list[str] = []
    dataset = prepare(settings(path, validation_fraction=0.0), warn=told.append)
    return dataset.spec.classes, told


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_integers_with_a_zero_after_the_point_are_the_same_class_in_every_table(tmp_path, suffix):
    rows = [("a", "1"), ("b", "1.0"), ("c", "0"), ("d", "-2.00"), ("e", "1")]
    path = write(tmp_path / f"all.{suffix}", rows)
    assert told_of(path) == (
        ("-2", "0", "1"),
        ["labels that are written in several ways are one class: 1 ('1', '1.0')"],
    )
    dataset = prepare(settings(path, validation_fraction=0.0))
    assert [name for _, name in examples(dataset, "train")] == ["1", "1", "0", "-2", "1"]


def test_labels_with_points_are_text_unless_all_are_integers(tmp_path):
    rows = [("a", "1.0"), ("b", "1.1"), ("c", "2.0")]
    assert told_of(write(tmp_path / "a.csv", rows)) == (("1.0", "1.1", "2.0"), [])


def test_labels_in_two_unicode_forms_are_one_class_and_told(tmp_path):
    write(tmp_path / "train.csv", [("a", "caf\u00e9"), ("b", "cafe\u0301"), ("c", "bar")])
    write(tmp_path / "test.csv", [("d", "cafe\u0301")])
    told: list[str] = []
    dataset = prepare(settings(tmp_path, validation_fraction=0.0), warn=told.append)
    assert dataset.spec.classes == ("bar", "caf\u00e9")
    assert examples(dataset, "test") == [("d", "caf\u00e9")]
    assert told == [
        "labels that are written in several ways are one class: caf\u00e9 "
        "('cafe\\u0301', 'caf\\xe9')"
    ]


def test_a_single_class_that_several_labels_became_is_explained(tmp_path):
    rows = [("a", "caf\u00e9"), ("b", "cafe\u0301")]
    assert refusal(write(tmp_path / "a.csv", rows), validation_fraction=0.0) == (
        "all training texts have one label, caf\u00e9: there is no choice; labels that are written "
        "in several ways are one class: caf\u00e9 ('cafe\\u0301', 'caf\\xe9')"
    )


def test_labels_that_are_equal_as_numbers_are_told_apart_and_told(tmp_path):
    rows = [("a", "1"), ("b", "01"), ("c", "001"), ("d", "2"), ("e", "+2")]
    assert told_of(write(tmp_path / "a.csv", rows)) == (
        ("001", "01", "1", "+2", "2"),
        ["classes that are equal as numbers are told apart: '001' and '01' and '1', '+2' and '2'"],
    )


def test_the_order_of_classes_is_the_same_in_every_process():
    program = (
        "from data.classes import assign_classes; labels = {'1', '01', '001', '2', '02', '-1'};"
        "found = assign_classes({'train': dict.fromkeys(labels, 1)}, thing='text',"
        " validation_is_cut=False); print(found.names)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert found == {"('-1', '001', '01', '1', '02', '2')\n"}


def test_a_class_that_says_that_there_is_no_label_is_told(tmp_path):
    rows = [("a", "0"), ("b", "1"), ("c", "nan")]
    assert told_of(write(tmp_path / "a.csv", rows)) == (
        ("0", "1", "nan"),
        ["classes that seem to be missing labels are learnt like others: 'nan'"],
    )


@pytest.mark.parametrize("label", ["NA", "\\N", "#N/A", "(null)", "NaT", "none", "-"])
def test_every_way_to_write_no_label_is_told(tmp_path, label):
    _, told = told_of(write(tmp_path / "a.csv", [("a", "x"), ("b", "y"), ("c", label)]))
    assert told == [f"classes that seem to be missing labels are learnt like others: {label!r}"]


def test_texts_that_seem_to_be_missing_are_told_and_learnt(tmp_path):
    texts = ["nan", "NaN", "NA", "\\N", "#NAME?", "a banana", "nanny"]
    path = write(tmp_path / "a.csv", [(text, n % 2) for n, text in enumerate(texts)])
    assert told_of(path)[1] == [
        "5 of 7 texts of train seem to be missing, such as 'nan', and are learnt"
    ]


def test_more_classes_than_half_of_the_texts_are_told(tmp_path):
    rows = [(f"text {n}", f"name {n}") for n in range(20)]
    told = "20 classes for 20 texts: is data.label_field the column of the label?"
    lines = list[str]()
    prepare(settings(write(tmp_path / "b.csv", rows), validation_fraction=0.9), warn=lines.append)
    assert lines[0].endswith(", 7 more is held out: training sees none") and lines[1] == told
    assert told_of(write(tmp_path / "a.csv", rows))[1] == [told]
    assert told_of(write(tmp_path / "a.csv", rows * 2))[1] == []


def test_the_tokenizer_is_learnt_from_the_training_part(tmp_path):
    write(tmp_path / "train.csv", [("banana " * 20, n % 2) for n in range(9)])
    write(tmp_path / "test.csv", [("zebra " * 20, n % 2) for n in range(9)])
    dataset = prepare(settings(tmp_path, tokenizer=BPE(vocabulary_size=300)))
    words = dataset.tokenizer.vocabulary()
    assert "banana" in words
    assert "zebra" not in words


CSV = "text,label\nfine,1\n"
WRONG = {
    "no label": (CSV + "x,\n", "line 3: field 'label' is empty: every row needs a label"),
    "no text": (CSV + ",1\n", "line 3: field 'text' is empty: every row needs a text"),
    "too many fields": (CSV + "a,b,c\n", "line 3 has 3 fields, and line 1 2"),
    "an open quotation mark": (
        CSV + '"a,1\nb,2\n',
        "line 3 is no row: a quotation mark that opens there is never closed",
    ),
    "a misspelt head": ("text,lable\nx,1\n", "did you mean data.label_field=lable?"),
    "no head": ("great film,1\n", "has no field 'text', but great film, 1"),
    "no UTF-8": (CSV.encode() + b"\xff,1\n", "line 3 is not UTF-8 text: byte 0xff"),
    "one class": (CSV + "x,1\n", "all training texts have one label, 1"),
    "only a head": ("text,label\n", "holds no record for train"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_named_with_its_line(tmp_path, case):
    content, expected = WRONG[case]
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(path, validation_fraction=0.0)
    assert expected in message
    assert str(path) in message or case == "one class"


def test_a_row_without_a_label_is_named_in_other_tables_too(tmp_path):
    rows = [("a", 0), ("b", 1), ("c", None)]
    for suffix, place in (("jsonl", "line 3"), ("parquet", "row 2")):
        message = refusal(write(tmp_path / f"a.{suffix}", rows), validation_fraction=0.0)
        assert f"{place}: field 'label' holds null, not a label" in message
    message = refusal(write(tmp_path / "b.jsonl", [("a", 0), ("b", 0.5)]), validation_fraction=0.0)
    assert "line 2: field 'label' holds a number, not a label" in message


def test_half_a_character_in_a_label_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "x", "label": "a\\ud83d"}\n')
    told = "line 1: field 'label' spells half a character, \\ud83d"
    assert told in refusal(tmp_path)


def test_a_label_that_training_has_not_is_refused(tmp_path):
    write(tmp_path / "train.csv", [("a", "x"), ("b", "y")])
    write(tmp_path / "test.csv", [("a", "z")])
    assert "test has the label z, which no training text has" in refusal(tmp_path)


def test_it_is_shown_with_its_label(tmp_path):
    dataset = prepare(settings(write(tmp_path / "a.csv")))
    batches = Batches(dataset.splits["train"], global_batch_size=3, seed=0, shuffle=True)
    shown = describe_batch(batches[0], dataset)
    assert "tokens   int32 [3, 64]" in shown
    assert "(good), weight 1" in shown
    assert "naïve 你好" in shown


def test_a_rare_label_that_was_held_out_is_a_class_all_the_same(tmp_path):
    rows = [(f"text {number}", number) for number in range(20)]
    dataset = prepare(settings(write(tmp_path / "a.csv", rows), validation_fraction=0.4))
    assert dataset.spec.classes == tuple(map(str, range(20)))
    assert examples(dataset, "validation")


LINES = {
    "csv": 'text,label\n"two\nlines",a\n\nb,b\n"three\n\nlines",a\nlast,b\n',
    "jsonl": "".join(
        f"{line}\n" if line else "\n"
        for line in (
            '{"text": "two\\nlines", "label": "a"}',
            "",
            '{"text": "b", "label": "b"}',
            '{"text": "three", "label": "a"}',
            "",
            '{"text": "last", "label": "b"}',
        )
    ),
}


@pytest.mark.parametrize(("suffix", "lines"), [("csv", [2, 5, 6, 9]), ("jsonl", [1, 3, 4, 6])])
def test_a_row_is_called_by_the_line_that_errors_name(tmp_path, suffix, lines):
    path, content = tmp_path / f"a.{suffix}", LINES[suffix]
    path.write_text(content)
    dataset = prepare(settings(path, validation_fraction=0.0))
    assert dataset.splits["train"].names() == [f"a.{suffix}:{line}" for line in lines]
    path.write_text(content.replace("last", ""))
    assert f"a.{suffix}, line {lines[-1]}: field 'text' is empty" in refusal(
        path, validation_fraction=0.0
    )


def test_rows_of_parquet_are_called_as_errors_call_them(tmp_path):
    rows = [("x", "a"), ("y", "b"), ("z", "a")]
    dataset = prepare(settings(write(tmp_path / "a.parquet", rows), validation_fraction=0.0))
    names = dataset.splits["train"].names()
    assert names == [f"a.parquet row {row}" for row in range(3)]
    rows[2] = ("", "a")
    message = refusal(write(tmp_path / "a.parquet", rows), validation_fraction=0.0)
    assert f"{names[2].replace(' row', ', row')}: field 'text' is empty" in message
