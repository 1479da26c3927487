"""Promises of splits by names: one way for every source, told; what is unclear is refused."""

import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from configs.errors import UsageError
from configs.schema.conversations import Conversations
from configs.schema.data import Records, Table, TextFiles
from configs.schema.pairs import ParallelText
from configs.schema.pictures import ImageFolder
from configs.schema.sound import SoundLabels, SoundTranscripts
from configs.schema.tokenizers import Bytes
from data.preparation import prepare
from data.sources.registry import open_source
from data.sources.splits import split_of

ALONE = {
    "train": ("train", "train.txt", "TRAIN.CSV", "Training_set", "train-00000-of-00002.parquet",
              "train-00000-of-00001-a09b74b3ef9c3b56.parquet", "trainset", "training data.csv",
              "train-000000.tar", "train-1.jsonl", "train_12", "train3.csv", "train_part_4.csv"),
    "validation": ("val", "dev.tsv", "valid.jsonl.gz", "Validation", "eval_set", "dev.de-en",
                   "val-000012.tar.gz", "dev-shard-07.tar"),
    "test": ("test", "testing", "test_data.csv", "heldout.jsonl", "hold-out", "Test-Split",
             "test_set-2.csv", "test-2016.tar"),
}  # fmt: skip
WITH_MORE = {
    "train": ("imdb_train.csv", "wiki.train.tokens", "train2017", "seg_train", "train 2.jsonl"),
    "validation": ("dev_matched.tsv", "ptb.char.valid.txt", "imdb-dev-00000-of-00003.parquet"),
    "test": ("test_2016_flickr", "corpus.test.jsonl.gz", "x test", "in1k-test-007.tar"),
}
NEITHER = ("trains", "tests", "trainer.py", "develop", "value.csv", "contest.txt", "latest",
           "document01.txt", "train_dev.csv", "dev-test")  # fmt: skip


def test_a_name_says_a_split_alone_or_with_more_or_none():
    for expected, alone in ((ALONE, True), (WITH_MORE, False)):
        for split, names in expected.items():
            assert [split_of(name) for name in names] == [(split, alone)] * len(names), names
    assert [name for name in NEITHER if split_of(name)] == []


# For each source: its settings, and the file that it reads of a path without its suffix.


def text(path: Path, split: str) -> None:
    path.with_name(f"{path.name}.txt").write_text(f"text of {split}")


def table(path: Path, split: str) -> None:
    path.with_name(f"{path.name}.csv").write_text(f"text,label\nof {split},a\nalso of {split},b\n")


def record(path: Path, split: str) -> None:
    record = {"text": f"of {split}", "prompt": "what?", "answer": f"of {split}"}
    path.with_name(f"{path.name}.jsonl").write_text(json.dumps(record) + "\n")


def pair(path: Path, split: str) -> None:
    for side in ("en", "de"):
        path.with_name(f"{path.name}.{side}").write_text(f"{side} of {split}\n")


def pair_table(path: Path, split: str) -> None:
    path.with_name(f"{path.name}.tsv").write_text(f"en\tde\na\tof {split}\n")


def manifest(path: Path, split: str) -> None:
    rows = []
    for label in "ab":
        sound = path.parent / f"of {split} {label}.wav"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(1600))
        rows.append({"path": sound.name, "text": label, "label": label})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.with_name(f"{path.name}.jsonl").write_text(lines)


SOURCES = {
    "text_files": (TextFiles, text),
    "records": (Records, record),
    "table": (Table, table),
    "conversations": (Conversations, record),
    "pairs of files": (ParallelText, pair),
    "pairs in tables": (ParallelText, pair_table),
    "transcripts": (SoundTranscripts, manifest),
    "labels of sounds": (SoundLabels, manifest),
}
LAYOUTS = {
    "files": ("train", "dev", "test"),
    "files with more in their names": ("imdb_train", "imdb_val", "imdb_test"),
    "folders": ("Training_set/a", "valid/b", "testing/c"),
    "shards in a folder": tuple(
        f"data/{split}-00000-of-00001" for split in ("train", "validation", "test")
    ),
}


def contents(source) -> dict[str, list[str]]:
    """What is in each split, in words."""
    return {split: [*map(str, examples)] for split, examples in source.splits.items()}


def write(folder: Path, kind: str, *names: str) -> tuple[type, Path]:
    """Files of a source named so, each with the name of its split in it."""
    source, make = SOURCES[kind]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        said = next((split_of(part) for part in name.split("/") if split_of(part)), ("no split",))
        make(path, said[0])
    return source, folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_knows_splits_by_the_same_names(tmp_path, kind, layout):
    source, folder = write(tmp_path / "set", kind, *LAYOUTS[layout])
    (folder / "README.md").write_text("what it is")
    (folder / ".hidden.txt").write_text("nothing")
    opened = open_source(source(path=str(folder)))
    found = contents(opened)
    assert [*found] == ["train", "validation", "test"]
    for split, examples in found.items():
        assert examples and all(f"of {split}" in one for one in examples)
    assert [*opened.layout.places] == [*found] and opened.layout.warnings == ()

    everything = open_source(source(path=str(folder), splits="none", validation_fraction=0.0))
    assert [*contents(everything)] == ["train"]
    assert {split for split in found if f"of {split}" in str(contents(everything))} == {*found}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_beside_those_of_splits_is_refused_with_both_ways_out(tmp_path, kind):
    source, folder = write(tmp_path / "set", kind, "train", "test", "train_old")
    with pytest.raises(UsageError) as raised:
        open_source(source(path=str(folder)))
    assert str(raised.value).startswith(f"{folder}: test.")
    assert " are named after splits, but train_old." in str(raised.value)
    assert "data.splits=names" in str(raised.value) and "data.splits=none" in str(raised.value)


NUMBERED = {
    "shards": ("train-000000", "train-000001"),
    "a part": ("train-0",),
    "parts with their number": ("train-00000-of-00002", "train-00001-of-00002"),
    "parts of two splits": ("train1", "train2", "test1"),
}


@pytest.mark.parametrize("layout", NUMBERED)
@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_beside_numbered_ones_of_splits_is_refused_with_both_ways_out(
    tmp_path, kind, layout
):
    source, folder = write(tmp_path / "set", kind, *NUMBERED[layout])
    assert contents(open_source(source(path=str(folder), validation_fraction=0.0)))["train"]
    write(folder, kind, "extra")
    with pytest.raises(UsageError) as raised:
        open_source(source(path=str(folder)))
    assert ", but extra." in str(raised.value)
    assert "data.splits=names" in str(raised.value) and "data.splits=none" in str(raised.value)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_numbered_file_is_no_part_of_the_whole_beside_it(tmp_path, kind):
    source, folder = write(tmp_path / "set", kind, "train", "train-1")
    with pytest.raises(UsageError, match=r" is named after a split, but train-1\."):
        open_source(source(path=str(folder)))


def test_what_comes_from_where_is_told_in_one_line(tmp_path):
    for name, count in {"train": 60, "dev": 20, "test": 20}.items():
        rows = "".join(f"{name} number {n}\t{n % 2}\n" for n in range(count))
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + rows)
    told: list[str] = []
    settings = Table(path=str(tmp_path), tokenizer=Bytes(), sequence_length=8,
                     cache_dir=str(tmp_path / ".cache"))  # fmt: skip
    for _ in range(2):  # of what is prepared already, too
        prepare(settings, inform=told.append)
        assert (
            told[0] == "splits: train 60 (train.tsv), validation 20 (dev.tsv), test 20 (test.tsv)"
        )
        told.clear()


def test_documents_are_counted_as_such(tmp_path):
    for name, count in {"train/a": 60, "train/b": 60, "dev": 20}.items():
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("some words\n" * count)
    told: list[str] = []
    settings = TextFiles(path=str(tmp_path), tokenizer=Bytes(), sequence_length=8)
    prepare(settings, inform=told.append)
    assert told[0] == "splits: train 2 documents (train/), validation 1 document (dev.txt)"


def test_many_files_of_a_split_are_all_read_and_the_first_are_named(tmp_path):
    names = [f"train-{n:05}-of-00005" for n in range(5)] + ["test", "dev_a", "dev_b"]
    source, folder = write(tmp_path, "records", *names)
    opened = open_source(source(path=str(folder)))
    assert {split: len(of) for split, of in contents(opened).items()} == {
        "train": 5, "validation": 2, "test": 1,
    }  # fmt: skip
    assert opened.layout.places == {
        "train": "train-00000-of-00005.jsonl, train-00001-of-00005.jsonl and 3 more",
        "validation": "dev_a.jsonl and dev_b.jsonl",
        "test": "test.jsonl",
    }


def test_what_says_test_and_is_trained_on_is_told(tmp_path):
    source, folder = write(tmp_path, "table", "test", "unit_test", "notes")
    alone = open_source(source(path=str(folder / "test.csv"), validation_fraction=0.5))
    assert alone.layout.warnings == (
        "test.csv is trained on, though its name says test: give a folder in which every name says "
        "its split, or data.splits=none if this is right",
    )
    some = open_source(source(path=str(folder / "*t*.csv")))
    assert some.layout.warnings[0].startswith(
        "test.csv and unit_test.csv are trained on, though they say test: "
    )
    for path in (folder / "test.csv", folder / "*t*.csv"):
        assert open_source(source(path=str(path), splits="none")).layout.warnings == ()
    assert open_source(source(path=str(folder / "notes.csv"))).layout.warnings == ()
    (folder / "test.csv").unlink()
    told: list[str] = []
    prepare(source(path=str(folder), tokenizer=Bytes(), sequence_length=8), warn=told.append)
    said = "unit_test.csv is trained on, though its name says test: "
    assert [line for line in told if line.startswith(said)]


def test_files_beside_the_folders_of_splits_are_left_out_and_told(tmp_path):
    source, folder = write(tmp_path, "text_files", "train/a", "test/b", "vocabulary", "train_list")
    opened = open_source(source(path=str(folder), validation_fraction=0.0))
    assert opened.layout.warnings == (
        "train_list.txt and vocabulary.txt are left out: only test/ and train/ are read",
    )
    assert [len(of) for of in contents(opened).values()] == [1, 1]
    write(tmp_path, "text_files", "more/c")
    with pytest.raises(UsageError, match=r"are named after splits, but more/c\.txt is not"):
        open_source(source(path=str(folder)))


def test_without_train_nothing_is_trained(tmp_path):
    source, folder = write(tmp_path, "records", "dev", "test/a")
    with pytest.raises(UsageError) as raised:
        open_source(source(path=str(folder)))
    assert str(raised.value) == (
        f"{folder} holds validation and test, but no train (dev.jsonl and test/); data.splits=none "
        "takes everything for training"
    )


def test_files_with_a_common_beginning_are_split_by_their_ends(tmp_path):
    for name in ("corpus.train", "corpus-dev", "corpus_test", "corpus.train.tok", "other.test"):
        pair(tmp_path / name, split_of(name)[0])
    opened = open_source(ParallelText(path=str(tmp_path / "corpus")))
    assert [*contents(opened)] == ["train", "validation", "test"]
    assert [len(of) for of in contents(opened).values()] == [1, 1, 1]
    assert opened.layout.places["test"] == "test.{en,de}"


def pictures(folder: Path, *names: str) -> ImageFolder:
    for name in names:
        for label in "ab":
            path = folder / name / label / f"of {name} {label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 9).save(path)
    return ImageFolder(path=str(folder), image_size=4, validation_fraction=0.0)


def test_folders_of_pictures_are_splits_if_all_of_them_are(tmp_path):
    opened = open_source(pictures(tmp_path / "set", "training_set", "val", "Test"))
    assert {split: [one["name"] for one in of] for split, of in opened.splits.items()} == {
        split: [f"{name}/{label}/of {name} {label}.png" for label in "ab"]
        for split, name in {"train": "training_set", "validation": "val", "test": "Test"}.items()
    }
    assert opened.layout.places == {"train": "training_set/", "validation": "val/", "test": "Test/"}
    settings = pictures(tmp_path / "set").model_copy(update={"splits": "none"})
    assert open_source(settings).classes == ("Test", "training_set", "val")
    assert open_source(settings).layout.warnings == ()


def test_one_folder_named_after_a_split_among_others_is_a_class_and_told(tmp_path):
    opened = open_source(pictures(tmp_path / "set", "Bus", "Car", "Train"))
    assert opened.classes == ("Bus", "Car", "Train")
    assert opened.layout.warnings == (
        f"Train of {tmp_path}/set is a class: folders are splits only if all beside each other are "
        "(data.splits)",
    )
    express = open_source(pictures(tmp_path / "trains", "express_train", "freight_train"))
    assert express.classes == ("express_train", "freight_train")


def test_folders_of_pictures_that_could_be_either_are_refused(tmp_path):
    settings = pictures(tmp_path / "a", "train", "test", "unlabelled")
    with pytest.raises(
        UsageError, match=r"named after splits, but unlabelled is not\. .*splits=none"
    ):
        open_source(settings)
    with pytest.raises(UsageError, match="dev and eval are all named after validation: "):
        open_source(pictures(tmp_path / "b", "train", "dev", "eval"))
