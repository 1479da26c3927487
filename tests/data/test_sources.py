"""Promises of the sources: which examples there are, and what is said where there are none."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from configs.schema.data import PythonStdlib, TextFiles
from configs.schema.pictures import Digits
from data.codecs.pictures import decode_picture
from data.codecs.tokenizers import Tokenizer
from data.sources import documents
from data.sources.registry import open_source
from data.sources.source import hold_out


def names(source, split: str) -> list[str]:
    return [*dict.fromkeys(example["document"] for example in source.splits[split])]


def texts(source, split: str) -> dict[str, str]:
    """The whole text of each document."""
    found: dict[str, str] = {}
    for example in source.splits[split]:
        found[example["document"]] = found.get(example["document"], "") + example["text"]
    return found


def refusal(**settings) -> str:
    with pytest.raises(UsageError) as raised:
        open_source(TextFiles(**settings))
    return str(raised.value)


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text)
    return str(folder)


def test_names_that_are_no_utf8_are_spelt_out(tmp_path):
    write(tmp_path, a="one", b="two")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/gro\xdf.txt")).write_text("three")
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    source = open_source(TextFiles(path=str(tmp_path), validation_fraction=0.4))
    both = texts(source, "train") | texts(source, "validation")
    assert both == {"a.txt": "one", "b.txt": "two", "gro\\xdf.txt": "three"}


def test_the_standard_library_is_there_without_tests_and_tables():
    source = open_source(PythonStdlib())
    train, validation = names(source, "train"), names(source, "validation")
    assert {"ast.py", "json/decoder.py", "email/message.py"} <= {*train, *validation}
    for name in (*train, *validation):
        assert name.endswith(".py")
        assert not {"test", "tests", "encodings", "pydoc_data", "site-packages"} & {
            *Path(name).parts
        }
    assert not {*train} & {*validation}
    assert 0.05 < len(validation) / len(train) < 0.2
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert names(open_source(PythonStdlib()), "validation") == validation
    text = (Path(sysconfig.get_path("stdlib")) / validation[0]).read_bytes().decode()
    assert texts(source, "validation")[validation[0]] == text
    assert [*open_source(PythonStdlib(validation_fraction=0.0)).splits] == ["train"]


def test_a_single_file_holds_out_its_last_characters(tmp_path):
    path = tmp_path / "input.txt"
    text = "é😀\n" * 5000 + "x" * 7
    path.write_text(text)
    source = open_source(TextFiles(path=str(path)))
    parts = [texts(source, split)["input.txt"] for split in ("train", "validation")]
    assert "".join(parts) == text
    assert len(parts[0]) == int(len(text) * 0.9)


def test_of_several_files_whole_ones_are_held_out_and_stay_so(corpus):
    source = open_source(TextFiles(path=str(corpus)))
    train, validation = names(source, "train"), names(source, "validation")
    assert train == sorted(train)
    assert {*train, *validation} == {f"part{n % 3}/document{n:02}.txt" for n in range(30)}
    (corpus / "another.txt").write_text("More.")
    assert {*validation} <= {*names(open_source(TextFiles(path=str(corpus))), "validation")}
    for document, text in texts(source, "validation").items():
        assert text == (corpus / document).read_text()


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.9])
def test_something_is_held_out_and_something_left(count, fraction):
    everything = [f"{number}.txt" for number in range(count)]
    left, held = hold_out(everything, fraction, str)
    assert sorted(left + held) == sorted(everything)
    assert 1 <= len(held) < count
    if count == 1000:
        assert len(held) / count == pytest.approx(fraction, abs=0.03)
    assert hold_out(everything[::-1], fraction, str) == (left[::-1], held[::-1])
    assert hold_out(everything, 0.0, str) == (everything, [])


def test_a_folder_may_hold_its_splits(tmp_path):
    folder = write(tmp_path, train__a="A", train__deep__b="B", test__c="C", README="no data")
    source = open_source(TextFiles(path=folder, validation_fraction=0.5))
    assert [*source.splits] == ["train", "validation", "test"]
    assert texts(source, "test") == {"test/c.txt": "C"}
    held = {**texts(source, "train"), **texts(source, "validation")}
    assert held == {"train/a.txt": "A", "train/deep/b.txt": "B"}

    write(tmp_path, validation__d="D")
    source = open_source(TextFiles(path=folder, validation_fraction=0.5))
    assert texts(source, "validation") == {"validation/d.txt": "D"}
    assert len(names(source, "train")) == 2


def test_a_folder_may_hold_a_file_for_each_split(tmp_path):
    folder = write(tmp_path, train="A", validation="B", test="C")
    source = open_source(TextFiles(path=folder))
    assert {split: [*texts(source, split).values()] for split in source.splits} == {
        "train": ["A"],
        "validation": ["B"],
        "test": ["C"],
    }
    write(tmp_path, README="no data")
    assert open_source(TextFiles(path=folder)).key == source.key


def test_a_glob_names_its_files(corpus):
    source = open_source(TextFiles(path=f"{corpus}/**/*1.txt", validation_fraction=0.0))
    assert names(source, "train") == [
        "part0/document21.txt",
        "part1/document01.txt",
        "part2/document11.txt",
    ]


def test_hidden_and_empty_files_are_left_out(tmp_path):
    folder = write(tmp_path, a="A", b="B", c="", d__e="E")
    for hidden in (".git/x.txt", ".DS_Store"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("hidden")
    source = open_source(TextFiles(path=folder, validation_fraction=0.0))
    assert names(source, "train") == ["a.txt", "b.txt", "d/e.txt"]


def test_tables_that_are_read_as_plain_text_are_told_in_one_line(tmp_path):
    def told(path) -> tuple[str, ...]:
        source = open_source(TextFiles(path=str(path), validation_fraction=0.0))
        return source.warnings

    contents = {
        "a.jsonl": '{"text": "one"}\n',
        "b.csv": "text,label\none,1\n",
        "c.json": '[\n  {"text": "one"}]',
        "d.json": '{"text": "one"}\n{"text": "two"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert told(tmp_path / name) == (
            f"{name} is read as plain text, with the names of fields and all signs between them; "
            "to read the texts in a field: --config.data.source=records",
        )
    (tmp_path / "settings.json").write_text('{\n  "width": [{"a": 1}, 3]\n}\n')
    (tmp_path / "code.py").write_text("x = [{}]\n")
    assert told(tmp_path / "settings.json") == told(tmp_path / "code.py") == ()
    (line,) = told(tmp_path)
    assert line.startswith("4 of 6 files are tables, such as a.jsonl, and read as plain text, ")


def test_a_byte_that_is_no_utf8_is_named_with_its_offset(tmp_path, monkeypatch):
    path = tmp_path / "bad.txt"
    path.write_bytes("é".encode() * 3 + b"\xff" + b"end")
    for block in (1, 2, 2**20):
        monkeypatch.setattr(documents, "_BLOCK_BYTES", block)
        assert f"{path} is not UTF-8 text: byte 0xff at offset 6." in refusal(path=str(path))
    path.write_bytes(b"cut short: \xe2\x82")
    assert "byte 0xe2 at offset 11" in refusal(path=str(path))
    source = open_source(TextFiles(path=str(path), invalid_utf8="replace", validation_fraction=0.0))
    assert texts(source, "train") == {"bad.txt": "cut short: \ufffd"}


def test_what_holds_no_text_is_refused_with_what_to_do(tmp_path):
    assert "no such file or folder" in refusal(path=str(tmp_path / "missing"))
    assert "no file matches" in refusal(path=str(tmp_path / "*.txt"))
    assert "holds no text for train" in refusal(path=str(tmp_path))
    (tmp_path / "empty.txt").touch()
    assert "empty.txt is empty" in refusal(path=str(tmp_path / "empty.txt"))
    assert "holds validation, but no train" in refusal(
        path=write(tmp_path / "a", validation__b="B")
    )
    short = write(tmp_path / "short", text="x")
    assert "data.validation_fraction=0 for no validation" in refusal(path=short)
    assert [*open_source(TextFiles(path=short, validation_fraction=0.0)).splits] == ["train"]


def test_long_documents_come_in_pieces_that_start_at_white_space(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 10)
    monkeypatch.setattr(documents, "_BLOCK_BYTES", 7)
    text = "some words, é, and then averyveryverylongword\n\n  done 😀" + "z" * 31
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("short")
    source = open_source(TextFiles(path=str(tmp_path), validation_fraction=0.0))
    examples = [*source.splits["train"]]
    pieces = [example["text"] for example in examples if example["document"] == "a.txt"]
    assert "".join(pieces) == text
    assert [example["piece"] for example in examples] == [*range(len(pieces)), 0]
    assert max(map(len, pieces)) <= 20
    assert pieces[1].startswith(" ")
    assert len(examples) <= len(source.splits["train"])


def test_pieces_have_the_tokens_of_the_whole(monkeypatch):
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 100)
    source = open_source(PythonStdlib())
    whole = texts(source, "validation")
    chosen = {name: whole[name] for name in sorted(whole, key=lambda name: len(whole[name]))[-6:-3]}
    tokenizer = Tokenizer.train_bpe(chosen.values(), 500)
    for name, text in chosen.items():
        pieces = [one["text"] for one in source.splits["validation"] if one["document"] == name]
        assert len(pieces) > 50
        assert (np.concatenate(tokenizer.encode_many(pieces)) == tokenizer.encode(text)).all()


def test_digits_are_split_as_everybody_splits_them():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = open_source(Digits())
    images, labels = load_digits(return_X_y=True)
    _, expected = train_test_split(images, test_size=0.2, random_state=0)
    examples = [*source.splits["test"]]
    pictures = [decode_picture(example["image"], (8, 8, 1)) for example in examples]
    found = {np.rint(picture * (16 / 255)).astype(int).tobytes() for picture in pictures}
    assert found == {row.astype(int).tobytes() for row in expected}
    counts = {split: len(of) for split, of in source.splits.items()}
    assert counts["test"] == len(examples) == 360
    assert sum(counts.values()) == len(labels) == 1797
    assert 0.05 < counts["validation"] / 1437 < 0.15
    assert [*open_source(Digits(validation_fraction=0.0)).splits] == ["train", "test"]
