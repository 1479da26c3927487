"""Promises of data.cleaning, on a corpus with every fault planted in it."""

import random
import unicodedata

import pytest

from configs.errors import UsageError
from configs.schema.data import Cleaning, TextFiles
from configs.schema.tokenizers import Bytes
from data import preparation
from data.codecs.tokenizers import SEPARATOR
from data.dataset import Dataset
from data.show import data_table
from data.sources import documents
from tests.data.test_preparation import text_of

SYLLABLES = [a + b for a in "klmnrstvbdfgpz" for b in "aeiou"]
WORDS = [a + b + c for a in SYLLABLES[::3] for b in SYLLABLES[::5] for c in ("", "n", "s", "lam")]
random.Random(3).shuffle(WORDS)
TOPICS = [WORDS[start::4] for start in range(4)]


def sentence(chance: random.Random, words: list[str], count: int) -> list[str]:
    """Words as languages have them, a few very often."""
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return chance.choices(words, weights, k=count)


def edited(chance: random.Random, words: list[str], share: float) -> list[str]:
    """About `share` of the words replaced by others, each by itself."""
    return [chance.choice(WORDS) if chance.random() < share else word for word in words]


def write_splits(folder, **splits: list[str]) -> str:
    for split, texts in splits.items():
        (folder / split).mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / split / f"{number:05}.txt").write_text(text, encoding="utf-8", newline="")
    return str(folder)


def prepare(path: str, **steps) -> Dataset:
    settings = TextFiles(path=path, tokenizer=Bytes(), sequence_length=64,
                         cleaning=Cleaning(**steps))  # fmt: skip
    return preparation.prepare(settings)


def texts(dataset: Dataset, split: str) -> list[str]:
    return text_of(dataset, split).split(SEPARATOR)[1:]


def test_planted_faults_are_counted_exactly(tmp_path):
    good = [f"good document {number} é\tone\r\ntwo\n" for number in range(20)]
    train = [
        *good,
        "cafe\u0301 and A\u030angstro\u0308m",  # three characters fewer
        "an \u212b as long as before",
        "bell\x07 and\x00\x1b[0m",  # three fewer
        "next\x85 line cafe\u0301",  # one by each step
        "short",
        "\x00\x01\x02\x03\x04\x05\x06\x07\x08 \x7f",  # of eleven characters a space is left
        "long " * 30,
        good[3],
        good[3],
        "an \u00c5 as long as before",  # equal, once it is normalised
        "known to test",
    ]
    path = write_splits(
        tmp_path, train=train, validation=["known to all three", "v" * 12],
        test=["known to all three", "known to test", "known to test"],
    )  # fmt: skip
    steps = {"unicode": "nfc", "control_characters": "remove", "minimum_characters": 6,
             "maximum_characters": 100, "duplicates": "exact"}  # fmt: skip
    dataset = prepare(path, **steps)
    counts = dataset.cleaning["train"]
    assert counts["steps"] == {
        "unicode": {"documents": 3, "characters": 4},
        "control_characters": {"documents": 3, "characters": 14},
        "too_short": {"documents": 2, "characters": 6},
        "too_long": {"documents": 1, "characters": 150},
        "exact_duplicates": {
            "documents": 4,
            "characters": 2 * len(good[3]) + len(train[-2]) + len(train[-1]),
        },
    }
    assert counts["documents"] == [31, 24]
    assert counts["characters"][0] == sum(map(len, train))
    missing = sum(step["characters"] for step in counts["steps"].values())
    assert counts["characters"][1] == counts["characters"][0] - missing

    kept = texts(dataset, "train")
    assert kept == [*good, "café and Ångström", "an Å as long as before", "bell and[0m",
                    "next line café"]  # fmt: skip
    assert sum(map(len, kept)) == counts["characters"][1]
    # The training part loses what is held out, and validation what is in test.
    assert texts(dataset, "test") == ["known to all three", "known to test"]
    assert texts(dataset, "validation") == ["v" * 12]
    told = {name: cells for name, *cells in data_table(dataset)}
    assert told["documents after"] == ["24", "1", "2"]
    assert told["too short"] == ["2 documents, 6 characters", "0", "0"]


@pytest.mark.parametrize("shingle", [("words", 2), ("characters", 6)], ids=str)
def test_near_duplicates_are_found_and_nothing_else(tmp_path, shingle):
    chance = random.Random(0)
    originals = [
        sentence(chance, TOPICS[number % 4], chance.randrange(80, 400)) for number in range(300)
    ]
    copies = [edited(chance, one, 0.1) for one in originals[:150]]
    path = write_splits(tmp_path, train=[" ".join(one) for one in [*originals, *copies]],
                        validation=["something else"])  # fmt: skip
    dataset = prepare(path, duplicates="near", near_shingle=shingle[0],
                      near_shingle_length=shingle[1])  # fmt: skip
    kept = set(texts(dataset, "train"))
    right = sum(" ".join(one) not in kept for one in copies)
    wrong = sum(" ".join(one) not in kept for one in originals)
    assert right / len(copies) >= 0.95
    assert right / (right + wrong) >= 0.95
    counts = dataset.cleaning["train"]["steps"]
    assert counts["near_duplicates"]["documents"] == right + wrong
    assert counts["exact_duplicates"]["documents"] == 0


def test_what_is_near_to_a_held_out_document_is_lost_by_training(tmp_path):
    chance = random.Random(1)
    words = sentence(chance, WORDS, 200)
    path = write_splits(tmp_path, train=["quite another text", " ".join(edited(chance, words, .1))],
                        test=[" ".join(words).upper()], validation=["v"])  # fmt: skip
    dataset = prepare(path, duplicates="near")
    assert texts(dataset, "train") == ["quite another text"]
    assert len(texts(dataset, "test")) == 1


def test_documents_in_many_pieces_are_cleaned_as_wholes(tmp_path, monkeypatch):
    chance = random.Random(2)
    words = sentence(chance, WORDS, 500)
    text = " ".join(words)
    almost = " ".join([*words[:-1], "different"])
    path = write_splits(tmp_path, train=[text, "e\u0301 " * 300, almost, text + " "],
                        validation=[text + " "])  # fmt: skip
    steps = {"unicode": "nfc", "duplicates": "near", "minimum_characters": 10}
    whole = prepare(path, **steps)
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 20)
    pieces = prepare(path, **steps)
    assert pieces.splits["train"].path != whole.splits["train"].path
    assert pieces.cleaning == whole.cleaning
    assert texts(pieces, "train") == texts(whole, "train") == ["é " * 300]


def test_what_is_off_changes_nothing_and_what_is_on_is_another_preparation(tmp_path):
    path = write_splits(tmp_path, train=["A\u030a\x00", "A\u030a\x00"], validation=["v", ""])
    off = prepare(path)
    assert texts(off, "train") == ["A\u030a\x00"] * 2
    assert off.cleaning == {}
    folders = {off.splits["train"].path}
    for steps in ({"unicode": "nfkc"}, {"unicode": "nfc"}, {"duplicates": "exact"}):
        dataset = prepare(path, **steps)
        folders.add(dataset.splits["train"].path)
        assert prepare(path, **steps).fingerprint == dataset.fingerprint
    assert len(folders) == 4
    assert unicodedata.is_normalized("NFC", text_of(prepare(path, unicode="nfc"), "train"))


def test_it_is_told_each_time(tmp_path):
    path = write_splits(tmp_path, train=["text", "text"], validation=["other"])
    settings = TextFiles(path=path, tokenizer=Bytes(), cleaning=Cleaning(duplicates="exact"))
    told: list[str] = []
    for _ in range(2):
        preparation.prepare(settings, warn=told.append)
    assert told == 2 * [
        "cleaning validation: 1 of 1 documents stay",
        "cleaning train: 1 of 2 documents stay (exact duplicates 1 document, 4 characters)",
    ]


def test_a_text_that_is_all_cleaned_away_is_told(tmp_path):
    path = write_splits(tmp_path, train=["text"], validation=["text"])
    with pytest.raises(UsageError, match=r"train part .* clean less of it away"):
        prepare(path, duplicates="exact")
