"""Promises of folders as people have them: what is no data is left out and told, and classes and
splits that are arranged in another way are named."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from configs.errors import UsageError
from configs.reading.inputs import check_inputs
from configs.schema.config import Config
from configs.schema.conversations import Conversations
from configs.schema.data import Records, Table, TextFiles, WebDataset
from configs.schema.pairs import ParallelText
from configs.schema.pictures import ImageFolder, WebDatasetPictures
from configs.schema.sound import SoundTranscripts
from data.sources.registry import open_source

RULE = "left out: editors' backups (~$*, *~, *.bak, *.orig, *.swp) and what is no regular file are "


def write(folder: Path, *names: str, text: str = "some words\n") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def documents(path: Path | str, **options):
    return open_source(TextFiles(path=str(path), validation_fraction=0.0, **options))


def names(source) -> list[str]:
    return [one["document"] for one in source.splits["train"]]


def pictures(folder: Path, *folders: str, count: int = 1) -> Path:
    for number, name in enumerate(f"{name}/{n}.png" for name in folders for n in range(count)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(folder / name)
    return folder


def opened(folder: Path, **options):
    settings = {"image_size": 4, "validation_fraction": 0.0} | options
    return open_source(ImageFolder(path=str(folder), **settings))


def refusal(folder: Path, **options) -> str:
    with pytest.raises(UsageError) as raised:
        opened(folder, **options)
    return str(raised.value)


def test_pipes_and_sockets_in_a_folder_are_left_out_and_told(tmp_path, monkeypatch):
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "to_pipe.txt").symlink_to("pipe.txt")
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        source = documents(tmp_path)
    assert names(source) == ["a.txt"]
    assert source.layout.warnings == (
        f"pipe.txt, socket.txt and to_pipe.txt are {RULE}not read",
    )  # fmt: skip
    pictures(tmp_path / "set", "cat", "dog")
    os.mkfifo(tmp_path / "set" / "dog" / "pipe.png")
    found = opened(tmp_path / "set")
    assert len(found.splits["train"]) == 2
    assert "set/dog/pipe.png" in found.warnings[0]


def test_backups_of_editors_are_left_out_and_told(tmp_path):
    write(tmp_path, "train.txt", "train.txt~", "valid.txt", "valid.txt.bak", "~$train.txt", "a.SWP")
    source = documents(tmp_path)
    assert names(source) == ["train.txt"]
    assert source.layout.warnings == (f"a.SWP, train.txt~ and 2 more are {RULE}not read",)
    some = documents(tmp_path / "t*")
    assert names(some) == ["train.txt"]
    assert some.layout.warnings == (f"train.txt~ is {RULE}not read",)
    assert names(documents(tmp_path / "*.bak")) == ["valid.txt.bak"]  # nothing else is meant
    assert names(documents(tmp_path / "train.txt~")) == ["train.txt~"]
    write(tmp_path / "tables", "train.csv", "~$train.csv", "test.csv", text="text,label\na,b\n")
    tables = open_source(Table(path=str(tmp_path / "tables"), validation_fraction=0.0))
    assert tables.layout.warnings == (f"~$train.csv is {RULE}not read",)


COPIES = {
    "text": (TextFiles, ("a.txt", "a.txt.gz")),
    "text of two compressions": (TextFiles, ("a.txt.bz2", "a.txt.xz")),
    "JSON lines": (Records, ("more/a.jsonl", "more/a.jsonl.zst")),
    "a table of a split": (Table, ("train.csv", "train.csv.gz")),
    "conversations": (Conversations, ("a.jsonl", "a.jsonl.gz")),
    "a list of recordings": (SoundTranscripts, ("train.tsv", "train.tsv.xz")),
    "pairs": (ParallelText, ("train.en", "train.en.gz")),
    "shards": (WebDataset, ("train-000.tar", "train-000.tar.gz")),
    "shards of short names": (WebDatasetPictures, ("train-000.tar.zst", "train-000.tgz")),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_file_and_its_compressed_copy_are_refused(tmp_path, case):
    kind, files = COPIES[case]
    write(tmp_path, *files, "other/train.de", text="")
    first, second = (tmp_path / name for name in files)
    for path in (tmp_path, *(() if kind is ParallelText else (first.parent / "*a*",))):
        with pytest.raises(UsageError) as raised:
            open_source(kind(path=str(path)))
        assert str(raised.value) == (
            f"{first} and {second} are copies of one file by their names, and every example would "
            "be read twice: move one of them elsewhere"
        )


def test_pairs_named_by_their_beginning_may_have_no_compressed_copy(tmp_path):
    write(tmp_path, "a.en", "a.de", "b.en", "b.en.gz")
    assert len(open_source(ParallelText(path=f"{tmp_path}/a", validation_fraction=0.0)).splits)
    write(tmp_path, "a.de.gz")
    with pytest.raises(UsageError, match=r"a\.de and .*a\.de\.gz are copies of one file"):
        open_source(ParallelText(path=f"{tmp_path}/a"))


def test_files_of_one_name_in_two_folders_are_no_copies(tmp_path):
    write(tmp_path, "a/x.txt", "b/x.txt.gz", "x.md")
    assert names(documents(tmp_path)) == ["a/x.txt", "b/x.txt.gz", "x.md"]


def test_folders_of_systems_are_hidden_ones(tmp_path):
    systems = ("@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information", "__MACOSX")
    set_ = write(tmp_path / "text", "a.txt", *(f"more/{name}/b.txt" for name in systems))
    source = documents(set_)
    assert (names(source), source.layout.warnings) == (["a.txt"], ())
    inside = (f"cat/{name}" for name in systems)
    found = opened(pictures(tmp_path / "set", "cat", "dog", *systems, *inside))
    assert (found.classes, found.warnings) == (("cat", "dog"), ())
    for name in systems:
        pictures(tmp_path / "parts", "train/cat", "train/dog", name)
    found = opened(tmp_path / "parts")
    assert (found.classes, found.warnings) == (("cat", "dog"), ())


def test_a_link_to_nothing_is_named_as_such(tmp_path):
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    said = f"{tmp_path}/b.txt is a link to gone.txt, which is not there: mend or delete it"
    with pytest.raises(UsageError) as raised:
        documents(tmp_path)
    assert str(raised.value) == said
    pictures(tmp_path / "set", "cat", "dog")
    (tmp_path / "set" / "cat" / "x.png").symlink_to("gone.png")
    assert "cat/x.png is a link to gone.png, which is not there" in refusal(tmp_path / "set")
    config = Config.model_construct(data=TextFiles(path=str(tmp_path / "b.txt")))
    with pytest.raises(UsageError, match=r"b\.txt is not there \(it is a link to gone\.txt\)"):
        check_inputs(config)


@pytest.mark.parametrize("kind", [TextFiles, Table, ParallelText])
def test_a_pipe_is_no_file_of_data(kind):
    ends = os.pipe()
    try:
        config = SimpleNamespace(data=kind(path=f"/dev/fd/{ends[0]}"))
        with pytest.raises(UsageError, match=r"is no regular file: give a file, as it is read"):
            check_inputs(config)
    finally:
        for end in ends:
            os.close(end)


def test_folders_of_partitions_are_splits(tmp_path):
    write(tmp_path / "text", "split=train/data_0.txt", "split=test/data_0.txt")
    source = documents(tmp_path / "text")
    assert names(source) == ["split=train/data_0.txt"]
    assert source.layout.places == {"train": "split=train/", "test": "split=test/"}
    parts = (f"split={split}/label={label}" for split in ("train", "test") for label in "ab")
    found = opened(pictures(tmp_path / "set", *parts))
    assert found.classes == ("label=a", "label=b") and {*found.splits} == {"train", "test"}


def test_splits_inside_of_classes_are_refused_with_their_arrangement(tmp_path):
    folder = pictures(tmp_path / "set", "cat/test", "cat/train", "dog/test", "dog/train")
    assert refusal(folder) == (
        f"data.path={folder}: cat/test and cat/train are named after splits, but are inside of a "
        "class: arrange them as test/cat and train/cat; data.splits=none takes everything for "
        "training"
    )
    assert len(opened(folder, splits="none").splits["train"]) == 4
    toys = pictures(tmp_path / "toys", "vehicles/train", "vehicles/car", "animals/dog")
    assert opened(toys).classes == ("animals", "vehicles")


def test_folders_that_most_classes_hold_are_told_to_be_the_classes_perhaps(tmp_path):
    folder = pictures(
        tmp_path / "set", *(f"fold_{n}/{one}" for n in "01" for one in ("cat", "dog"))
    )
    told = (
        "the classes are fold_0 and fold_1, though {} the folders cat and dog: if these are the "
        f"classes, arrange the pictures as {folder}/cat/fold_0"
    )
    assert opened(folder).warnings == (told.format("each holds"),)
    pictures(folder, "fold_2/cat")
    (warning,) = opened(folder).warnings
    assert "fold_0, fold_1 and fold_2, though most hold the folders cat and dog" in warning
    wrapped = pictures(tmp_path / "wrapped", "cat/images", "dog/images", "dog/more", "cat/old")
    assert opened(wrapped).warnings == ()


def test_a_copy_of_the_classes_beside_them_is_told(tmp_path):
    folder = pictures(tmp_path / "set", "cat", "dog", "set/cat", "set/dog")
    assert opened(folder).warnings[0] == (
        f"{folder}/set is a class of its own, though it holds cat and dog, as do the folders "
        "beside it: is it a copy?"
    )


def test_a_doubled_folder_of_a_split_is_read_and_told(tmp_path):
    parts = [f"{split}/{split}/{one}" for split in ("seg_train", "seg_test") for one in "ab"]
    found = opened(pictures(tmp_path, *parts))
    assert found.classes == ("a", "b") and len(found.splits["test"]) == 2
    assert found.warnings == tuple(
        f"the classes of {tmp_path}/{one} are read from {tmp_path}/{one}/{one}"
        for one in ("seg_train", "seg_test")
    )
    write(tmp_path, "seg_train/list.txt")
    assert refusal(tmp_path).endswith(
        f"seg_train/CLASS/NAME.jpg, as are in {tmp_path}/seg_train/seg_train: move them from there "
        f"to {tmp_path}/seg_train"
    )


def test_pictures_in_no_folder_of_a_class_are_counted(tmp_path):
    folder = pictures(tmp_path, "train/cat", "train/dog")
    pictures(folder, "val", count=3)
    assert refusal(folder).endswith(
        "there is no picture for validation in a folder of its class, "
        f"{folder}/val/CLASS/NAME.jpg: 3 pictures are directly in {folder}/val"
    )
    flat = pictures(tmp_path, "flat")
    assert refusal(flat / "flat").endswith(f": 1 picture is directly in {flat}/flat")
