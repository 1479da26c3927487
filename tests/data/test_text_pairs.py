"""Promises of pairs of texts: batches of the form that is documented, each a function of k."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from configs.schema.pairs import ParallelText
from configs.schema.tokenizers import (
    BPE,
    Bytes,
    Characters,
    TokenizerFile,
    Unigram,
    WordPiece,
    Words,
)
from data import preparation
from data.batches import Batches
from data.dataset import Dataset
from data.prefetch import stream
from data.show import data_table, describe_batch
from data.text_pairs import PairCodec
from tests.data.conftest import sentences

PAIRS = [(line, f"{line[::-1]} {number}" * (1 + number % 3))
         for number, line in enumerate(sentences(300).splitlines())]  # fmt: skip


def write(folder: Path, name: str, pairs) -> None:
    """Two files of pairs: NAME.en and NAME.de."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, texts in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
        (folder / f"{name}.{ending}").write_text("".join(f"{text}\n" for text in texts))


def settings(path, **changes) -> ParallelText:
    return ParallelText(path=str(path), **({"tokenizer": Bytes()} | changes))


def prepare(path, **changes) -> tuple[Dataset, list[str]]:
    """The data, and what was told when it was prepared, but for the line on padding."""
    told: list[str] = []
    dataset = preparation.prepare(settings(path, **changes), warn=told.append)
    return dataset, [line for line in told if not line.startswith("batches of train: ")]


def examples(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    """The pairs of a split in their order, out of its batches; which are of the form they say."""
    one, separator = dataset.splits[split], dataset.tokenizer.separator_id
    found, batches = [], Batches(one, global_batch_size=7, seed=0, shuffle=False)
    for number in range(len(batches)):
        batch = batches[number]
        assert {name: str(array.dtype) for name, array in batch.items()} == {
            "source": "int32", "source_segments": "int32", "tokens": "int32", "targets": "int32",
            "weights": "float32",
        }  # fmt: skip
        assert batch["source"].shape == batch["source_segments"].shape
        assert batch["tokens"].shape == batch["targets"].shape == batch["weights"].shape
        assert batch["source"].shape[1] in one.lengths.bounds[0]
        assert batch["targets"].shape[1] in one.lengths.bounds[1]
        for row in range(7):
            source = batch["source"][row][batch["source_segments"][row] > 0]
            target = batch["targets"][row][batch["weights"][row] > 0]
            assert source[-1] == separator == batch["tokens"][row, 0]
            assert not batch["source"][row, len(source) :].any()
            if number * 7 + row < one.examples:
                assert target[-1] == separator
                padding = len(batch["targets"][row]) - len(target)
                expected = [separator, *target[:-1], *[0] * padding]
                assert batch["tokens"][row].tolist() == expected
                assert not batch["targets"][row, len(target) :].any()
                decode = dataset.tokenizer.decode
                found.append((decode(source[:-1]), decode(target[:-1])))
            else:
                assert not len(target)
    return found


@pytest.mark.parametrize(
    "tokenizer",
    [Bytes(), Characters(), BPE(vocabulary_size=400), Unigram(vocabulary_size=400),
     WordPiece(vocabulary_size=700), Words(vocabulary_size=3000)],
    ids=lambda one: one.kind,
)  # fmt: skip
def test_every_pair_comes_back_once_and_whole(tmp_path, tokenizer):
    write(tmp_path, "train", PAIRS[:250])
    write(tmp_path, "validation", PAIRS[20:60])
    write(tmp_path, "test", PAIRS[100:131])
    dataset, told = prepare(tmp_path, tokenizer=tokenizer, max_source_length=300)
    assert told == [
        f"{count} of {count} pairs of {split} are in train too, such as {split}:1: what they "
        "measure was learnt by heart"
        for split, count in (("validation", 40), ("test", 31))
    ]
    parts = {"train": PAIRS[:250], "validation": PAIRS[20:60], "test": PAIRS[100:131]}
    assert {split: examples(dataset, split) for split in dataset.splits} == parts
    assert dataset.spec.model_arguments() == {
        "vocabulary_size": dataset.tokenizer.vocabulary_size,
        "max_source_length": 300,
        "max_length": 256,
    }
    count = sum(len(dataset.tokenizer.encode(target)) + 1 for _, target in parts["test"])
    assert dataset.splits["test"].targets == count
    assert dataset.splits["test"].names() == [f"test:{line}" for line in range(1, 32)]


def test_one_tokenizer_is_learnt_from_the_training_pairs_of_both_sides(tmp_path):
    write(tmp_path, "train", [("banana " * 9, "ananas " * 9)] * 9)
    write(tmp_path, "test", [("zebra " * 9, "okapi " * 9)] * 9)
    dataset, _ = prepare(tmp_path, tokenizer=BPE(vocabulary_size=300))
    words = dataset.tokenizer.vocabulary()
    assert {"banana", "ananas"} <= {*words}
    assert not {"zebra", "okapi"} & {*words}
    dataset.tokenizer.save(tmp_path / "mine.json")
    mine, _ = prepare(tmp_path, tokenizer=TokenizerFile(path=str(tmp_path / "mine.json")))
    assert mine.fingerprint == dataset.fingerprint


def test_pairs_that_lack_a_text_or_are_too_long_are_left_out_of_training_and_told(tmp_path):
    pairs = [("a", "b"), ("", "b"), ("a", " \t"), ("", ""), ("a" * 9, "b"), ("a", "b" * 6),
             ("a" * 8, "b" * 5), ("a" * 9, "b" * 6)]  # fmt: skip
    write(tmp_path, "train", pairs)
    dataset, told = prepare(
        tmp_path, max_source_length=9, max_target_length=6, validation_fraction=0.0
    )
    assert examples(dataset, "train") == [("a", "b"), ("a" * 8, "b" * 5)]
    limits = "data.max_source_length=9 or data.max_target_length=6"
    assert told == [
        "3 of 8 pairs of train lack a text, and are left out",
        f"3 of 8 pairs of train are longer than {limits}, and left out",
    ]
    assert list(dataset.warnings) == told
    assert ("left out", "6") in data_table(dataset)


def test_evaluation_cuts_what_is_too_long_and_tells(tmp_path):
    write(tmp_path, "train", [("a", "b")])
    pairs = [("a", ""), ("abcdef", "b"), ("a", "bcdefg"), ("abcdef", "bcdefg"), ("x", "y")]
    write(tmp_path, "test", pairs)
    dataset, told = prepare(
        tmp_path, max_source_length=5, max_target_length=4, validation_fraction=0.0
    )
    assert examples(dataset, "test") == [("abcd", "b"), ("a", "bcd"), ("abcd", "bcd"), ("x", "y")]
    assert told == [
        "1 of 5 pairs of test lack a text, and are left out",
        "2 of 5 sources of test are longer than data.max_source_length=5, and cut",
        "2 of 5 targets of test are longer than data.max_target_length=4, and cut: the rest counts "
        "for nothing",
    ]
    assert {("left out", "0", "1"), ("cut", "0", "3")} <= {*data_table(dataset)}
    assert dataset.splits["test"].names() == [f"test:{line}" for line in range(2, 6)]


def test_pairs_of_training_that_are_measured_on_are_told(tmp_path):
    write(tmp_path, "train", [("a", "b"), ("c", "d"), ("e", "f")])
    write(tmp_path, "test", [("a", "d"), ("c", "d"), ("a", "b"), ("x", "y")])
    _, told = prepare(tmp_path, validation_fraction=0.0)
    assert told == [
        "2 of 4 pairs of test are in train too, such as test:2: what they measure was learnt by "
        "heart"
    ]


def test_a_split_of_which_nothing_is_left_is_refused_with_the_reason(tmp_path):
    write(tmp_path, "train", [("a" * 9, "b"), ("", "")])
    with pytest.raises(UsageError) as raised:
        prepare(tmp_path, max_source_length=5, validation_fraction=0.0)
    assert str(raised.value) == (
        "no pair of train is left: 1 of 2 pairs of train lack a text, and are left out; 1 of 2 "
        "pairs of train are longer than data.max_source_length=5 or data.max_target_length=256, "
        "and left out"
    )


def test_records_are_as_small_as_the_pair():
    for size, token in ((2**16, 2), (2**16 + 1, 4)):
        codec = PairCodec(size, 0, (9, 9))
        source, target = np.array([1, size - 1, 3], np.int32), np.array([7], np.int32)
        record = codec.encode(source, target)
        assert len(record) == 4 + 4 * token
        batch = codec.batch(np.array([record, 0], object))
        assert batch["source"][0].tolist() == [1, size - 1, 3, *[0] * 6]
        assert batch["source_segments"].sum(axis=1).tolist() == [4, 1]
        assert batch["targets"][0].tolist() == [7, *[0] * 8]
        assert batch["weights"].sum(axis=1).tolist() == [2, 0]


@pytest.fixture
def dataset(tmp_path):
    write(tmp_path, "corpus", PAIRS)
    return preparation.prepare(settings(tmp_path / "corpus", global_batch_size=8, length_buckets=3))


def batches_of(dataset: Dataset, **options) -> Batches:
    given = {"global_batch_size": 8, "seed": 3, "shuffle": True} | options
    return Batches(dataset.splits["train"], **given)


def assert_equal(one, other) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_anywhere_sees_the_same_batches(dataset, workers):
    whole, other = batches_of(dataset), pickle.loads(pickle.dumps(batches_of(dataset)))
    start, stop = 37, 41
    for number, batch in enumerate(stream(other, start, stop, workers), start):
        assert_equal(batch, whole[number])
    assert number == stop - 1
    assert not np.array_equal(whole[0]["source"], whole[1]["source"])


def test_two_hosts_read_the_halves_of_one_batch(dataset):
    whole = batches_of(dataset)
    hosts = [batches_of(dataset, rows=rows) for rows in (slice(0, 4), slice(4, 8))]
    for number in (0, 5, 60):
        halves = [host[number] for host in hosts]
        joined = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        assert_equal(joined, whole[number])


def test_each_side_has_few_lengths_and_the_padding_of_all_is_stated(dataset):
    train, batches = dataset.splits["train"], batches_of(dataset, seed=0)
    assert [len(bounds) for bounds in train.lengths.bounds] == [3, 3]
    together = train.lengths.batches_together(8)
    count = -(-train.examples // 8 // together) * together
    found = [batches[number] for number in range(count)]
    real = sum(one["source_segments"].sum() + one["weights"].sum() for one in found)
    padding = 1 - real / sum(one["source"].size + one["targets"].size for one in found)
    assert train.padding == pytest.approx(padding)
    assert ("padding", f"{padding:.2%}", "") in data_table(dataset)
    assert len({(one["source"].shape, one["targets"].shape) for one in found}) <= 9


def test_more_lengths_leave_less_padding_and_prepare_nothing_anew(dataset, tmp_path):
    stages: list[str] = []
    more = preparation.prepare(
        settings(tmp_path / "corpus", global_batch_size=8, length_buckets=9),
        progress=lambda stage, *_: stages.append(stage),
    )
    assert stages == []
    assert more.splits["train"].padding < dataset.splits["train"].padding
    assert more.fingerprint == dataset.fingerprint


def test_what_decides_the_pairs_makes_them_anew(dataset, tmp_path):
    for changes in ({"max_target_length": 30}, {"tokenizer": Characters()}):
        assert prepare(tmp_path / "corpus", **changes)[0].fingerprint != dataset.fingerprint
    (tmp_path / "corpus.de").write_text((tmp_path / "corpus.de").read_text().replace("x", "X"))
    assert prepare(tmp_path / "corpus")[0].fingerprint != dataset.fingerprint


def test_a_batch_is_shown_with_both_texts_their_lengths_and_its_padding(tmp_path):
    write(tmp_path, "train", [("one text", "ein Text"), ("naïve 你好", "x")])
    dataset, told = prepare(tmp_path, validation_fraction=0.0, global_batch_size=2)
    batches = Batches(dataset.splits["train"], global_batch_size=2, seed=0, shuffle=False)
    shown = describe_batch(batches[0], dataset).splitlines()
    assert shown[0] == "source          int32 [2, 14], 0 to 256"
    taken, positions = 9 + 14 + 9 + 2, 2 * 14 + 2 * 9
    assert (
        f"{1 - taken / positions:.2%} of the positions of sources and targets hold nothing" in shown
    )
    assert shown[-5:] == [
        "  target: 9 of 9 tokens; 'ein Text<|endoftext|>'",
        "",
        "example 1",
        "  source: 14 of 14 tokens; 'naïve 你好<|endoftext|>'",
        "  target: 2 of 9 tokens; 'x<|endoftext|>'",
    ]
    assert told == []


def test_metadata_of_a_prepared_set_are_plain(dataset):
    folder = dataset.splits["train"].path.parent
    metadata = json.loads((folder / "metadata.json").read_text())
    (train,) = (part for part in metadata["parts"] if part["split"] == "train")
    assert train["counts"]["examples"] == dataset.splits["train"].examples
