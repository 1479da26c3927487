"""Promises of the user's own pairs: two files or a table, found, split, and named where wrong."""

import gzip
import json
from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.schema.pairs import ParallelText
from configs.schema.tokenizers import Bytes
from data.preparation import prepare
from data.sources.registry import open_source
from tests.data.test_labelled_text import SUFFIXES
from tests.data.test_labelled_text import write as write_table

PAIRS = [(f'source {n}, with "quotes" and naïve 你好', f"target {n}\u2028😀") for n in range(40)]


def write(folder: Path, **files: str | bytes) -> Path:
    """Files of a folder, by their names with __ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def lines(pairs=PAIRS) -> dict[str, str]:
    """What the two files of pairs hold."""
    return {
        side: "".join(f"{pair[place]}\n" for pair in pairs)
        for place, side in enumerate(("en", "de"))
    }


def settings(path, **changes) -> ParallelText:
    return ParallelText(path=str(path), **({"tokenizer": Bytes()} | changes))


def pairs_of(path, **changes) -> dict[str, list[tuple[str, str]]]:
    source = open_source(settings(path, **changes))
    found = {
        split: [(one["source"], one["target"]) for one in of] for split, of in source.splits.items()
    }
    for split, of in source.splits.items():
        assert len(of) == len(found[split])
    return found


def refusal(path, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(path, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_folder_holds_two_files_for_each_split(tmp_path):
    for split in ("train", "validation", "test"):
        pairs = lines([(f"{split} {n}", f"{n}") for n in range(3)])
        write(tmp_path, **{f"{split}__{side}": text for side, text in pairs.items()})
    write(tmp_path, train__fr="other\n", README__md="about it")
    found = pairs_of(tmp_path)
    assert found == {
        split: [(f"{split} {n}", f"{n}") for n in range(3)]
        for split in ("train", "validation", "test")
    }
    back = pairs_of(tmp_path, source_language="de", target_language="en")
    assert back == {split: [pair[::-1] for pair in pairs] for split, pairs in found.items()}


def test_a_split_may_be_several_files_with_more_in_their_names(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test.de-en"):
        write(tmp_path, **{f"{name}__{side}": f"{name}\n" for side in ("en", "de")})
    found = pairs_of(tmp_path, validation_fraction=0.0)
    assert found["train"] == [(f"train-0000{n}-of-00002",) * 2 for n in range(2)]
    assert found["test"] == [("test.de-en",) * 2]


@pytest.mark.parametrize("place", ["folder", "beginning", "compressed", "beginning of splits"])
def test_of_two_files_alone_whole_pairs_are_held_out(tmp_path, place):
    texts = lines()
    name = "corpus.train" if place == "beginning of splits" else "corpus"
    for side, text in texts.items():
        if place == "compressed":
            (tmp_path / f"{name}.{side}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / f"{name}.{side}").write_bytes(text.encode())
    path = tmp_path if place in ("folder", "compressed") else tmp_path / "corpus"
    found = pairs_of(path, validation_fraction=0.3)
    assert sorted(found["train"] + found["validation"]) == sorted(PAIRS)
    assert 3 < len(found["validation"]) < 25
    assert [*pairs_of(path, validation_fraction=0.0)] == ["train"]
    both_ways = pairs_of(path, validation_fraction=0.3, source_language="de", target_language="en")
    assert both_ways["validation"] == [pair[::-1] for pair in found["validation"]]


def test_what_is_named_after_no_split_is_all_training_or_refused(tmp_path):
    more = {f"{name}__{side}": text for name in ("news", "talks") for side, text in
            lines([(name, name)]).items()}  # fmt: skip
    write(tmp_path, **more)
    assert pairs_of(tmp_path, validation_fraction=0.0) == {
        "train": [("news", "news"), ("talks", "talks")]
    }
    write(tmp_path, **{f"train__{side}": text for side, text in lines().items()})
    assert (
        "train.{en,de} is named after a split, but news.{en,de} and talks.{en,de} are not"
        in refusal(tmp_path)
    )
    assert len(pairs_of(tmp_path, validation_fraction=0.0, splits="none")["train"]) == 42


def test_tables_beside_the_files_are_left_out_and_told(tmp_path):
    write(tmp_path / "set", train__en="a\nb\n", train__de="c\nd\n", test__tsv="en\tde\ne\tf\n")
    told: list[str] = []
    made = settings(tmp_path / "set", validation_fraction=0.0)
    assert list(prepare(made, warn=told.append).splits) == ["train"]
    assert told[0] == (
        f"{tmp_path}/set/test.tsv is left out: train.en and train.de are read, and no tables "
        "beside such files"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_has_a_column_for_each_side(tmp_path, suffix):
    pairs = [(source, target.replace("\u2028", " ")) for source, target in PAIRS]
    path = write_table(tmp_path / f"all.{suffix}", pairs, ("en", "de"))
    found = pairs_of(path)
    assert sorted(found["train"] + found["validation"]) == sorted(pairs)
    other = write_table(tmp_path / f"b.{suffix}", pairs, ("question", "answer"))
    given = {"source_field": "question", "target_field": "answer", "validation_fraction": 0.0}
    assert pairs_of(other, **given) == {"train": pairs}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_columns_may_be_inside_of_another(tmp_path, suffix):
    rows = [{"id": n, "translation": {"en": one, "de": other}} for n, (one, other) in
            enumerate(PAIRS)]  # fmt: skip
    path = tmp_path / f"all.{suffix}"
    if suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"source_field": "translation.en", "target_field": "translation.de"}
    assert pairs_of(path, **given, validation_fraction=0.0) == {"train": PAIRS}
    assert "did you mean data.source_field=translation.en?" in refusal(path)
    assert "did you mean data.target_field=translation.de?" in refusal(
        path, source_field="translation.en"
    )


def test_null_is_a_text_that_is_missing(tmp_path):
    path = write(tmp_path, all__jsonl='{"en": "a", "de": null}\n{"en": "b", "de": "c"}\n')
    told: list[str] = []
    made = settings(path / "all.jsonl", validation_fraction=0.0)
    dataset = prepare(made, warn=told.append)
    assert dataset.splits["train"].examples == 1
    assert told[0] == "1 of 2 pairs of train lack a text, and are left out"


def test_a_folder_may_hold_a_table_for_each_split(tmp_path):
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}.jsonl", [(split, "x")] * 3, ("en", "de"))
    found = pairs_of(tmp_path, validation_fraction=0.0)
    assert found == {"train": [("train", "x")] * 3, "test": [("test", "x")] * 3}


def test_lines_end_where_line_feeds_are_and_nowhere_else(tmp_path):
    write(tmp_path, train__en="\ufeffa\u2028b \r\nc\x0bd\x85\n\n e", train__de="1\r\n2\n3\n4\n")
    assert pairs_of(tmp_path, validation_fraction=0.0)["train"] == [
        ("a\u2028b ", "1"), ("c\x0bd\x85", "2"), ("", "3"), (" e", "4"),
    ]  # fmt: skip


def test_numbers_of_lines_that_differ_are_told_with_both_files(tmp_path):
    write(tmp_path, train__en="a\nb\nc\n" * 400, train__de="a\n" * 1199)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}/train.en has 1,200 lines, but {tmp_path}/train.de 1,199: "
    )


def test_a_byte_that_is_no_utf8_is_named_with_file_and_line(tmp_path):
    write(tmp_path, train__en="a\nb\n", train__de=b"a\n\xffb\n")
    assert f"{tmp_path}/train.de, line 2 is not UTF-8 text: byte 0xff" in refusal(tmp_path)
    found = pairs_of(tmp_path, invalid_utf8="replace", validation_fraction=0.0)
    assert found["train"] == [("a", "a"), ("b", "\ufffdb")]


WRONG = {
    "one side is missing": (
        {"train__en": "a\n"}, {}, "train.en has no train.de beside it",
    ),
    "another language": (
        {"train__en": "a\n", "train__fr": "a\n"}, {},
        "train.en has no train.de beside it, but train.fr: data.target_language is the ending",
    ),
    "both languages are others": (
        {"train__en": "a\n", "train__de": "a\n"},
        {"source_language": "ru", "target_language": "fr"},
        "has train.de, train.en: pairs are read from train.ru and train.fr",
    ),
    "no train": ({"test__en": "a\n", "test__de": "b\n"}, {}, "holds test, but no train"),
    "empty": ({"train__en": "", "train__de": ""}, {}, "train.en and "),
    "one pair": (
        {"train__en": "a\n", "train__de": "b\n"}, {},
        "train: of 1 records nothing is left for validation",
    ),
    "a column": (
        {"train__en": "a\n", "train__de": "b\n"}, {"source_field": "text"},
        "data.source_field=text is a column of a table, but data.path=",
    ),
    "other files": ({"notes__txt": "x"}, {}, "has notes.txt: pairs are read from train.en and"),
    "a misspelt column": (
        {"train__tsv": "en\tdr\na\tb\n"}, {},
        "has no field 'de', but en, dr: did you mean data.target_field=dr?",
    ),
    "a table without a head": (
        {"train__tsv": "Go.\tGeh.\nRun!\tLauf!\n"}, {},
        "line 1, which names the columns, has no field 'en', but Go., Geh.: set data.source_field",
    ),
    "a head of sentences": (
        {"train__tsv": f"{'a ' * 30}\t{'b ' * 30}\n"}, {},
        f"has no field 'en', but {'a ' * 20}..., {'b ' * 20}...: set data.source_field",
    ),
    "a tab in a text": (
        {"train__tsv": "en\tde\na\tb\tc\n"}, {},
        "line 2 has 3 fields, and line 1 2: no text can have a tab in it",
    ),
    "a comma in a text": (
        {"train__csv": "en,de\na,b,c\n"}, {},
        "line 2 has 3 fields, and line 1 2: a text with a comma in it stands in quotation marks",
    ),
    "a text is missing in a table": (
        {"train__csv": "en,de\na\n"}, {}, "line 2 has 1 field, and line 1 2",
    ),
    "a field inside of another": (
        {"train__jsonl": '{"id": 1, "translation": {"en": "a", "de": "b"}}\n'}, {},
        "line 1 has no field 'en', but id, translation.en, translation.de: did you mean "
        "data.source_field=translation.en?",
    ),
    "an object in place of a text": (
        {"train__jsonl": '{"translation": {"en": "a", "de": "b"}, "de": "c"}\n'},
        {"source_field": "translation"},
        "field 'translation' holds an object, not text: text is in translation.en, "
        "translation.de, de",
    ),
    "no text": (
        {"train__jsonl": '{"en": "a", "de": 5}\n'}, {}, "field 'de' holds a number, not text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path, case):
    files, changes, expected = WRONG[case]
    assert expected in refusal(write(tmp_path / "set", **files), **changes)


def test_one_file_of_two_is_no_path(tmp_path):
    write(tmp_path, corpus__en="a\n", corpus__de="b\n")
    message = refusal(tmp_path / "corpus.de")
    assert message.endswith(f"is one file of two: give data.path={tmp_path}/corpus")
    assert "has no such files" in refusal(tmp_path / "corpse")
    write(tmp_path, talks__train__en="a\n")
    assert "talks.train.en has no talks.train.de beside it" in refusal(tmp_path / "talks")


def test_files_are_read_once_for_their_facts(tmp_path):
    write(tmp_path / "set", train__en="a\nb\n", train__de="c\nd\n")
    first = open_source(settings(tmp_path / "set")).key
    assert json.dumps(open_source(settings(tmp_path / "set")).key) == json.dumps(first)
    write(tmp_path / "set", train__de="c\nx\n")
    assert open_source(settings(tmp_path / "set")).key != first
