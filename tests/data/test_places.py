"""Where the examples of each split are said to come from."""

import pytest
from PIL import Image

import data
from configs.schema.data import Mixture, TextFiles
from configs.schema.pictures import Digits, ImageFolder
from configs.schema.tokenizers import Bytes

CUT = "cut from training by data.validation_fraction=0.1"
TEXT = "one two three four five six seven.\n" * 60


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIFORM_CACHE", str(tmp_path / "cache"))


def text_places(path, **options) -> dict[str, str]:
    options = {"sequence_length": 8, "tokenizer": Bytes(), **options}
    return dict(data.prepare(TextFiles(path=str(path), **options)).places)


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
    assert text_places(folder) == {
        split: f"{folder}/{split}" for split in ("train", "validation", "test")
    }


def test_a_file_beside_others_is_no_split_by_its_name_alone(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train.txt", "validation.txt", "notes.txt"):
        (folder / name).write_text(TEXT)
    assert text_places(folder) == {"train": str(folder), "validation": CUT}


def test_test_alone_beside_training_leaves_validation_cut(tmp_path):
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for number in range(4):
                path = tmp_path / "set" / split / label / f"{number}.png"
                Image.new("L", (8, 8), number).save(path)
    settings = ImageFolder(path=str(tmp_path / "set"), image_size=8)
    assert data.prepare(settings).places == {
        "train": f"{tmp_path}/set/train",
        "validation": CUT,
        "test": f"{tmp_path}/set/test",
    }


def test_embedded_sets_and_mixtures_have_their_names(tmp_path):
    settings = Digits()
    dataset = data.prepare(settings)
    assert dataset.places["test"] == "data.source=digits"
    assert data.split_rows(dataset, settings)[1] == ("validation", f"147 pictures: {CUT}")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT)
    parts = tuple(f"text_files:{tmp_path / name}" for name in ("a.txt", "b.txt"))
    mixed = Mixture(parts=parts, sequence_length=8, tokenizer=Bytes())
    assert data.prepare(mixed).places == {"train": ", ".join(parts), "validation": CUT}
