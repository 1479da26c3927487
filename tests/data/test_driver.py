"""A kind of example is one class; the driver does for it what it does for all."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.data import Data
from data.batches import Batches
from data.dataset import ExampleCodec
from data.driver import Part, Preparation
from data.progress import silent
from data.sources.source import MadeExamples, Source

TRAIN = [1, -2, 3, 0, 5, -6, 7]


class NumberCodec(ExampleCodec):
    """Stores numbers."""

    dtype = np.dtype("<i4")

    def batch(self, records: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"number": records, "weights": np.ones(len(records), np.float32)}


class Numbers(Preparation):
    """Prepares numbers; those below 0 are left out."""

    things = "numbers"

    def key(self) -> dict[str, Any]:
        return {"numbers": 1}

    def codec(self, split, lengths=None) -> NumberCodec:
        return NumberCodec()

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        part.counts["left_out"] = 0
        for group in part.read("counting", 2):
            kept = [one for one in group if one["value"] >= 0]
            for one in group:
                if one["value"] < 0:
                    part.note("are below 0, and left out", one["name"])
                    part.counts["left_out"] += 1
            part.names += [one["name"] for one in kept]
            part.note("are 0", count=sum(not one["value"] for one in kept), things="values")
            yield np.array([one["value"] for one in kept], np.int32)
        if not part.written:
            raise UsageError(f"no number of {part.split} is left: {'; '.join(part.lines())}")

    def spec(self, splits) -> DataSpec:
        return DataSpec()

    def digested(self, hashes, parts) -> Any:
        return hashes


def prepare(folder, **splits) -> tuple[Any, list]:
    make = lambda value: {"name": f"number {value}", "value": value}  # noqa: E731
    examples = {split: MadeExamples(of, make) for split, of in splits.items()}
    settings = SimpleNamespace(
        source="numbers", global_batch_size=2, has_tokenizer=False, may_break=False
    )
    seen: list = []
    report = lambda *what: seen.append(what)  # noqa: E731
    metadata = Numbers([Source("numbers", examples, {})], settings).write(folder, report)
    again = json.loads(json.dumps(metadata))
    return Numbers([Source("numbers", examples, {})], settings).open(folder, again), seen


def test_settings_say_whether_their_examples_have_tokens_and_may_break():
    kinds = get_args(get_args(Data)[0])
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.has_tokenizer == ("tokenizer" in kind.model_fields), kind
        assert kind.may_break == ("broken_fraction" in kind.model_fields), kind


def test_a_new_kind_of_example_is_one_class(tmp_path):
    dataset, seen = prepare(tmp_path, train=TRAIN, test=[4, 0])
    train = dataset.splits["train"]
    batch = Batches(train, global_batch_size=5, seed=0, shuffle=False)[0]
    assert batch["number"].tolist() == [1, 3, 0, 5, 7]
    assert train.names() == [f"number {value}" for value in (1, 3, 0, 5, 7)]
    assert (train.examples, train.left_out, train.broken, train.lengths) == (5, 2, None, None)
    assert dataset.warnings == (
        "2 of 7 numbers of train are below 0, and left out; such as number -2",
        "1 of 7 values of train are 0",
        "1 of 2 values of test are 0",
    )
    assert seen[0] == ("counting train", 0, 7, "numbers") and seen[-1][:2] == ("counting test", 2)
    assert dataset.tokenizer is None and dataset.cleaning == {}


def test_the_fingerprint_is_of_the_records_alone(tmp_path):
    (tmp_path / "other").mkdir()
    first, _ = prepare(tmp_path, train=TRAIN)
    assert prepare(tmp_path / "other", train=[*TRAIN, -1])[0].fingerprint == first.fingerprint
    assert prepare(tmp_path / "other", train=TRAIN[:-1])[0].fingerprint != first.fingerprint


def test_a_split_of_which_nothing_is_left_is_told_with_its_messages(tmp_path):
    with pytest.raises(UsageError) as raised:
        prepare(tmp_path, train=TRAIN, test=[-1, -2])
    assert str(raised.value) == (
        "no number of test is left: 2 of 2 numbers of test are below 0, and left out; such as "
        "number -1"
    )


def test_examples_of_a_source_are_read_once_for_each_pass(tmp_path):
    passes = []

    class Counted(MadeExamples):
        def __iter__(self):
            passes.append(len(self))
            return super().__iter__()

    examples = {"train": Counted(TRAIN, lambda value: {"name": str(value), "value": value})}
    settings = SimpleNamespace(source="numbers", has_tokenizer=False, may_break=False)
    Numbers([Source("numbers", examples, {})], settings).write(tmp_path, silent)
    assert passes == [7]
