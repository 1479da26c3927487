"""Promises of tables as people bring them: what is understood, and what a line says otherwise."""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from configs.errors import UsageError
from configs.schema.data import Records, Table, TextFiles
from configs.schema.pairs import ParallelText
from configs.schema.tokenizers import Bytes
from data.preparation import prepare
from data.sources import json_rows
from data.sources.registry import open_source

HUGE = "7" * 5000


def settings(path: Path, content: str | bytes, **changes) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(path=str(path), validation_fraction=0.0, **changes)


def rows(made: Table) -> list[tuple[str, str]]:
    return [(one["text"], one["label"]) for one in open_source(made).splits["train"]]


def refusal(made: Table) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(made)
    assert "\n" not in str(raised.value)
    return str(raised.value)


SEPARATED = {
    "Excel's first line": ("a.csv", "sep=,\r\ntext,label\r\nfine,1\r\nbad,0\r\n", None),
    "another separator in it": ("a.csv", 'sep=;\ntext;label\nfine;1\n"bad";0\n', "semicolons"),
    "quoted semicolons": ("a.csv", '"text";"label"\n"fine";"1"\n"bad";"0"\n', "semicolons"),
    "bars": ("a.csv", "text|label\nfine|1\nbad|0\n", "vertical bars"),
    "tabs in .csv": ("a.csv", 'text\tlabel\n"fine"\t1\nbad\t0\n', "tabs"),
    "commas in .tsv": ("a.tsv", 'text,label\n"fine",1\nbad,0\n', "commas"),
    "a mark": ("a.csv", "\ufefftext;label\nfine;1\nbad;0\n", "semicolons"),
    "old Macs": ("a.csv", "text,label\rfine,1\rbad,0\r", None),
    "old Macs and tabs": ("a.tsv", "text\tlabel\rfine\t1\rbad\t0", None),
    "blank lines first": ("a.csv", "\n\ntext,label\nfine,1\n\nbad,0\n", None),
}


@pytest.mark.parametrize("case", SEPARATED)
def test_the_first_line_says_or_shows_the_separator_and_it_is_told(tmp_path, case):
    name, content, separator = SEPARATED[case]
    made = settings(tmp_path / name, content)
    assert rows(made) == [("fine", "1"), ("bad", "0")]
    told = f"{tmp_path / name} is read with {separator} between the fields, as in its first line"
    assert open_source(made).warnings == (() if separator is None else (told,))
    lines: list[str] = []
    prepare(made, warn=lines.append)
    assert lines[: len(open_source(made).warnings)] == [*open_source(made).warnings]


def test_rows_are_called_by_their_line_under_a_line_for_excel(tmp_path):
    made = settings(tmp_path / "a.csv", 'sep=,\ntext,label\n"two\nlines",1\nbad,0\n')
    assert [one["document"] for one in open_source(made).splits["train"]] == [
        "a.csv:3",
        "a.csv:5",
    ]
    made = settings(tmp_path / "a.csv", "sep=;\ntext;label\nfine;1;2\n")
    assert "a.csv, line 3 has 3 fields, and line 2 2: a text with a semicolon" in refusal(made)


HEADLESS = {
    "two columns": ("a.csv", "lovely film,0\nawful,1\n", "columns, such as text,label"),
    "tabs": ("a.tsv", "lovely film\t0\nawful\t1\n", "columns, such as text\tlabel"),
    "three columns": ("a.csv", "7,lovely film,0\n", "columns, such as text,label,column3"),
}


@pytest.mark.parametrize("case", HEADLESS)
def test_a_table_without_names_is_told_which_line_to_add(tmp_path, case):
    name, content, line = HEADLESS[case]
    told = refusal(settings(tmp_path / name, content))
    assert told.startswith(f"{tmp_path / name}, line 1, which names the columns, has no field")
    assert told.endswith(
        f"if this line is a row already, put a line before it that names the {line}"
    )


def test_a_misspelt_name_is_not_taken_for_a_row(tmp_path):
    told = refusal(settings(tmp_path / "a.csv", "Text,Label\nfine,1\n"))
    assert told.endswith("did you mean data.text_field=Text?")


def test_a_stray_carriage_return_is_named_in_csv_and_kept_in_tsv(tmp_path):
    made = settings(tmp_path / "a.csv", "text,label\nfine,1\nbad\rmore,0\n")
    assert "line 3 is no row: a carriage return (CR) is inside a field: put" in refusal(made)
    made = settings(tmp_path / "a.tsv", "text\tlabel\r\nfine\t1\r\nbad\rmore\t0\r\n")
    assert rows(made) == [("fine", "1"), ("bad\rmore", "0")]


def test_quotation_marks_inside_of_others_are_explained(tmp_path):
    made = settings(tmp_path / "a.csv", 'text,label\n"a "b" c",1\n')
    assert 'inside of quotation marks, write "" for one' in refusal(made)


RECORDS = [
    {"text": "a [b], {c} \"d\" \\ 'e' 你好 😀", "label": "x", "more": [1, [2], {"f": None}]},
    {"text": "second", "label": "y", "number": 10**40},
    {"label": "x", "text": "", "more": {"text": "]"}},
]


@pytest.mark.parametrize("block", [1, 3, 2**16])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_is_read_like_lines(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(json_rows, "_BLOCK_CHARACTERS", block)
    records = [{**one, "text": one["text"] + "."} for one in RECORDS]
    content = json.dumps(records, indent=indent, ensure_ascii=False)
    made = settings(tmp_path / "a.jsonl", f"\ufeff \n{content}\n\n")
    assert rows(made) == [(one["text"], one["label"]) for one in records]
    source = open_source(made)
    assert [one["document"] for one in source.splits["train"]] == [
        f"a.jsonl row {row}" for row in range(3)
    ]
    assert {split: len(of) for split, of in source.splits.items()} == {"train": 3}
    content = json.dumps(RECORDS, indent=indent)
    before = content[: content.index('{"label"' if indent is None else '{\n  "label"')]
    line = 2 + before.count("\n")
    assert f"a.jsonl, row 2 on line {line}: field 'text' is empty" in refusal(
        settings(tmp_path / "a.jsonl", f"\n{content}")
    )


def test_a_file_called_json_is_read_if_it_is_given(tmp_path):
    made = settings(tmp_path / "a.json", '[{"text": "a", "label": "b"}]')
    assert rows(made) == [("a", "b")]
    (tmp_path / "train.csv").write_text("text,label\nc,d\n")
    assert rows(Table(path=str(tmp_path), validation_fraction=0.0)) == [("c", "d")]


ARRAYS = {
    "cut": ('[{"text": "a", "label": "b"},\n{"text": "c', "line 2 is no JSON: Unterminated string"),
    "never closed": ('[{"text": "a", "label": "b"}\n', "line 2 is no JSON: Expecting ','"),
    "no comma": ('[{"text": "a", "label": "b"}\n{}]', "line 2 is no JSON: Expecting ','"),
    "no JSON": ('[{"text": "a", "label": "b"},\n{text: 1}' + " " * 99, "line 2 is no JSON"),
    "lines": ('[{"text": "a", "label": "b"}]\n[]', "line 2 is no JSON: more follows the end"),
    "texts": ('["a", "b"]', "row 0 on line 1 holds a string, not an object with fields"),
    "nested": ("[" * 100_000, "line 1 is no JSON: nested too deeply"),
    "no UTF-8": (b'[{"text": "a\xff", "label": "b"}]', "is not UTF-8 text: byte 0xff"),
    "nothing": ("[]", "holds no record for train"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_a_wrong_array_is_named_with_its_line(tmp_path, case):
    content, told = ARRAYS[case]
    path = tmp_path / "a.jsonl"
    message = refusal(settings(path, content))
    assert told in message and str(path) in message


@pytest.mark.parametrize("wrap", ["{}\n{}\n", "[{},\n{}]"])
def test_numbers_too_long_for_python_are_read_past(tmp_path, wrap):
    first = f'{{"text": "a", "label": 0, "n": {HUGE}, "m": [-{HUGE}]}}'
    made = settings(tmp_path / "a.jsonl", wrap.format(first, '{"text": "b", "label": 1}'))
    assert rows(made) == [("a", "0"), ("b", "1")]
    made = settings(tmp_path / "a.jsonl", wrap.format(first, f'{{"text": "b", "label": {HUGE}}}'))
    assert "field 'label' holds a number, not a label" in refusal(made)


def parquet(path: Path, labels, texts=("a", "b")) -> Table:
    table = pa.table({"text": pa.array(texts), "label": labels})
    pa.parquet.write_table(table, path / "a.parquet")
    return Table(path=str(path / "a.parquet"), validation_fraction=0.0)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())]
)
def test_text_in_binary_columns_is_text(tmp_path, kind):
    texts = pa.array(["naïve".encode(), b"b"]).cast(kind)
    assert rows(parquet(tmp_path, texts, texts)) == [("naïve", "naïve"), ("b", "b")]
    bad = pa.array([b"\xff", b"b"])
    assert "row 0 is not UTF-8 text: byte 0xff" in refusal(parquet(tmp_path, ["x", "y"], bad))


def test_whole_numbers_are_labels_whatever_their_type(tmp_path):
    for kind in (pa.uint8(), pa.float64(), pa.decimal128(20, 0), pa.decimal128(30, 2)):
        made = parquet(tmp_path, pa.array([0, 1], pa.int32()).cast(kind))
        assert rows(made) == [("a", "0"), ("b", "1")]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([datetime.date(2020, 1, 1)] * 2, "holds a date, not a label"),
        ([datetime.datetime(2020, 1, 1)] * 2, "holds a datetime, not a label"),
        ([decimal.Decimal("0.5")] * 2, "holds a decimal, not a label"),
        ([[1], [2]], "holds an array, not a label"),
        ([0.5, 1.0], "holds a number, not a label"),
        ([None, "a"], "holds null, not a label"),
        ([float("nan"), 1.0], "field 'label' is missing (NaN): every row needs a label"),
    ],
)
def test_other_labels_are_refused_with_the_name_of_their_type(tmp_path, labels, told):
    message = refusal(parquet(tmp_path, pa.array(labels)))
    assert message.startswith(f"{tmp_path}/a.parquet, row 0: field 'label' ")
    assert told in message


def test_whatever_goes_wrong_with_a_file_is_one_line_with_its_name(tmp_path, monkeypatch):
    message = refusal(parquet(tmp_path, pa.array([2**62] * 2, pa.timestamp("us"))))
    assert message.startswith(f"{tmp_path}/a.parquet: ")
    monkeypatch.setattr(json_rows, "decode", lambda *_: 1 / 0)
    message = refusal(settings(tmp_path / "a.jsonl", "{}"))
    assert message == f"{tmp_path}/a.jsonl: ZeroDivisionError: division by zero"


def test_a_pointer_of_git_lfs_is_no_parquet(tmp_path):
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n"
    told = refusal(settings(tmp_path / "a.parquet", content))
    assert told == (
        f"{tmp_path}/a.parquet is a pointer of Git LFS, not the file itself: fetch it with git lfs "
        "pull"
    )
    parquet(tmp_path, ["x", "y"])
    content = (tmp_path / "a.parquet").read_bytes()
    assert "is a Parquet file" in refusal(settings(tmp_path / "a.csv", content))


def test_pairs_are_told_how_their_table_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("en;de\nOne, two.;Eins, zwei.\n")
    made = ParallelText(path=str(tmp_path / "a.csv"), tokenizer=Bytes(), validation_fraction=0.0)
    told: list[str] = []
    dataset = prepare(made, warn=told.append)
    assert dataset.splits["train"].examples == 1
    assert told[0] == (
        f"{tmp_path}/a.csv is read with semicolons between the fields, as in its first line"
    )


TABLES = ("csv", "tsv", "jsonl", "json", "parquet")


def table(path: Path, columns: dict[str, list]) -> Path:
    """A table of the kind that its name says."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([separator.join(columns), *lines]) + "\n")
    return path


def warnings(path: Path, kind: type = Table, **changes) -> tuple[str, ...]:
    return tuple(open_source(kind(path=str(path), **changes)).warnings)


@pytest.mark.parametrize("suffix", TABLES)
def test_columns_that_are_not_read_are_told_once(tmp_path, suffix):
    columns = {"text": ["a", "b"], "label": ["x", "y"], "id": [1, 2], "when": ["now", "then"]}
    path = table(tmp_path / f"a.{suffix}", columns)
    assert warnings(path) == ("columns that are not read: id, when",)
    if suffix not in ("csv", "tsv"):
        assert warnings(path, Records) == ("columns that are not read: label, id, when",)
    pairs = {"source_field": "text", "target_field": "label"}
    if suffix != "json":
        table(tmp_path / f"valid.{suffix}", columns | {"more": ["p", "q"]})
        path = path.rename(tmp_path / f"train.{suffix}")
        told = "columns that are not read: id, when, more"
        assert warnings(tmp_path, ParallelText, **pairs) == (told,)


def test_many_long_names_of_columns_are_cut(tmp_path):
    more = {f"column {n} {'x' * 99}": ["1", "2"] for n in range(20)}
    path = table(tmp_path / "a.csv", {"text": ["a", "b"], "label": ["x", "y"], **more})
    (told,) = warnings(path)
    assert len(told) < 600 and told.endswith("..., 8 more")
    assert len(refusal(Table(path=str(path), text_field="said"))) < 800


@pytest.mark.parametrize("suffix", TABLES)
def test_a_column_that_splits_the_rows_of_a_file_is_told(tmp_path, suffix):
    columns = {"text": [*"abcd"], "label": [*"xyxy"]}
    path = table(tmp_path / f"a.{suffix}", columns | {"split": ["train", "test"] * 2})
    assert warnings(path) == (
        f"{path} has a column 'split' with test and train, which is not read: all its rows are for "
        "training; make a file of each split",
    )
    assert warnings(path) == warnings(path)  # from the cache, too
    path = table(tmp_path / f"b.{suffix}", columns | {"split": ["train"] * 4})
    assert warnings(path) == ("columns that are not read: split",)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_of_separators_alone_are_left_out_and_told(tmp_path, name):
    content = "text,label,\n,,\na b,x,\n,\n , ,,,\nc d,y,\n,,\n"
    made = settings(tmp_path / name, content.replace(",", "\t" if name == "a.tsv" else ","))
    assert rows(made) == [("a b", "x"), ("c d", "y")]
    assert open_source(made).warnings == (
        f"{tmp_path / name}: 4 blank rows are left out",
        "columns that are not read: ''",
    )
    names = [one["document"] for one in open_source(made).splits["train"]]
    assert names == [f"{name}:3", f"{name}:6"]


def test_json_over_several_lines_is_told_how_to_write_it(tmp_path):
    made = settings(tmp_path / "a.jsonl", json.dumps({"text": "a", "label": "b"}, indent=1))
    assert f"one line of its own: jq -c . {tmp_path / 'a.jsonl'} > NEW" in refusal(made)


def test_a_null_text_is_told_what_to_do(tmp_path):
    made = settings(tmp_path / "a.jsonl", '{"text": null, "label": "b"}\n')
    assert refusal(made).endswith("'text' holds null, not text: give it a text, or leave it out")


def test_pairs_with_texts_that_seem_to_be_missing_are_told(tmp_path):
    pairs = {"en": ["a", "nan", "NULL", "d"], "de": ["e", "f", "g", "N/A"]}
    path = table(tmp_path / "a.jsonl", pairs)
    told: list[str] = []
    made = ParallelText(path=str(path), source_language="en", target_language="de",
                        validation_fraction=0.0, tokenizer=Bytes())  # fmt: skip
    prepare(made, warn=told.append)
    of = "of 4 {} of train seem to be missing, such as nan or NULL, and are learnt"
    assert told[:2] == [f"2 {of.format('sources')}", f"1 {of.format('targets')}"]


def test_a_parquet_file_among_texts_is_told_which_source_reads_it(tmp_path):
    path = table(tmp_path / "a.parquet", {"text": ["a", "b"]})
    with pytest.raises(UsageError, match=r"data\.source=records reads it"):
        prepare(TextFiles(path=str(path)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="is no whole Parquet file"):
        prepare(Records(path=str(path)))
