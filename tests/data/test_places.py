"""Where the examples of each split are said to come from."""

import pytest
from PIL import Image

from configs.schema.data import Mixture, TextFiles
from configs.schema.pictures import Digits, ImageFolder
from configs.schema.tokenizers import Bytes
from data.preparation import prepare
from data.show import split_rows

CUT = "cut from training by data.validation_fraction=0.1"
TEXT = "one two three four five six seven.\n" * 60


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIFORM_CACHE", str(tmp_path / "cache"))


def text_places(path, **options) -> dict[str, str]:
    options = {"sequence_length": 8, "tokenizer": Bytes(), **options}
    return dict(prepare(TextFiles(path=str(path), **options)).places)


def test_a_file_a_folder_and_splits_are_named_as_they_are_read(tmp_path):
    (tmp_path / "input.txt").write_text(TEXT)
    assert text_places(tmp_path / "input.txt") == {
        "train": f"{tmp_path}/input.txt",
        "validation": CUT,
    }
    assert text_places(tmp_path / "input.txt", validation_fraction=0.0) == {
        "train": f"{tmp_path}/input.txt"
    }
    folder = tmp_path / "folder"
    for name in ("train/a.txt", "train/b.txt", "validation/c.txt", "test/d.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TEXT)
    splits = {split: f"{split}/" for split in ("train", "validation", "test")}
    assert text_places(folder) == splits
    everything = text_places(folder, splits="none")
    assert everything == {"train": str(folder), "validation": CUT}


def test_test_alone_beside_training_leaves_validation_cut(tmp_path):
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for number in range(4):
                path = tmp_path / "set" / split / label / f"{number}.png"
                Image.new("L", (8, 8), number).save(path)
    settings = ImageFolder(path=str(tmp_path / "set"), image_size=8)
    told: list[str] = []
    dataset = prepare(settings, inform=told.append)
    assert dataset.places == {"train": "train/", "validation": CUT, "test": "test/"}
    train = dataset.splits["train"].examples
    assert told[0] == (
        f"splits: train {train} (train/), validation {8 - train} ({CUT}), test 8 (test/)"
    )


def test_embedded_sets_and_mixtures_have_their_names(tmp_path):
    settings = Digits()
    dataset = prepare(settings)
    assert dataset.places["test"] == "data.source=digits"
    assert split_rows(dataset, settings)[1] == ("validation", f"147 pictures: {CUT}")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT)
    parts = tuple(f"text_files:{tmp_path / name}" for name in ("a.txt", "b.txt"))
    mixed = Mixture(parts=parts, sequence_length=8, tokenizer=Bytes())
    assert prepare(mixed).places == {"train": ", ".join(parts), "validation": CUT}
    for name in ("train.txt", "dev.txt"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / name).write_text(TEXT)
        (tmp_path / "own" / "test.txt").write_text(TEXT)
    parts = (parts[0], f"text_files:{tmp_path}/own")
    mixed = Mixture(parts=parts, sequence_length=8, tokenizer=Bytes())
    assert prepare(mixed).places == {
        "test": f"{parts[1]}/test.txt",
        "train": f"{parts[0]}, {parts[1]}/train.txt",
        "validation": f"{parts[0]}, {parts[1]}/dev.txt, in part {CUT}",
    }


def warnings(settings) -> list[str]:
    told: list[str] = []
    prepare(settings, warn=told.append, inform=lambda line: None)
    return told


def test_a_share_far_from_the_fraction_is_told_with_both_numbers(tmp_path):
    """Of three files one is held out whole, whatever the fraction: a.txt by its hash."""
    sizes = {"a.txt": 9200, "b.txt": 400, "c.txt": 400}
    folder = tmp_path / "text"
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_text("abcdefghi\n" * (size // 10))

    def files(fraction: float) -> TextFiles:
        return TextFiles(path=str(folder), sequence_length=8, tokenizer=Bytes(),
                         validation_fraction=fraction)  # fmt: skip

    assert prepare(files(0.1)).splits["validation"].bytes == 9200
    (line,) = warnings(files(0.1))
    assert line == (
        "validation has 92 % of the text, not 10 % as data.validation_fraction=0.1 asks for: a "
        "hash chooses whole files; give a validation/ folder, or join the files"
    )
    assert warnings(files(0.5)) == []  # less than twice as much
    assert warnings(files(0.0)) == []
    joined = "".join((folder / name).read_text() for name in sizes)
    for name in sizes:
        (folder / name).unlink()
    (folder / "joined.txt").write_text(joined)
    assert warnings(files(0.1)) == []

    (folder / "validation").mkdir()
    (folder / "validation" / "joined.txt").write_text(joined)
    (folder / "joined.txt").rename(folder / "train.txt")
    (folder / "train").mkdir()
    (folder / "train.txt").rename(folder / "train" / "a.txt")
    assert not [line for line in warnings(files(0.1)) if "validation_fraction" in line]


def test_of_records_their_number_counts_and_of_a_mixture_each_source(tmp_path):
    for name, count in {"few": 3, "many": 300}.items():
        lines = (f'{{"text": "{"long " * n}record {n}"}}\n' for n in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    parts = tuple(f"records:{tmp_path}/{name}.jsonl" for name in ("few", "many"))
    told = warnings(Mixture(parts=parts, sequence_length=8, tokenizer=Bytes(),
                            validation_fraction=0.1))  # fmt: skip
    assert told == [
        f"validation has 33.3 % of the examples of {parts[0]}, not 10 % as "
        "data.validation_fraction=0.1 asks for: a hash chooses them; give a validation part of "
        "your own, or another fraction"
    ]
