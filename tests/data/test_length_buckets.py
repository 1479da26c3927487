"""Examples of many lengths come in few shapes, each once an epoch; batch k is a function of k."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from data.batches import Batches, evaluation_order
from data.dataset import ExampleCodec, Split
from data.length_buckets import Lengths, choose_bounds, write_lengths
from data.records import RecordWriter


@dataclass(frozen=True)
class NumberCodec(ExampleCodec):
    """A record is its own number; a batch says what shape it was padded to."""

    shape: tuple[int, ...] = ()
    dtype = np.dtype([("number", "<i8")])
    is_augmented = True

    def batch(self, records: Any) -> dict[str, Any]:
        padded = np.zeros((len(records), *self.shape), np.float32)
        return {"number": records["number"], "padded": padded, "weights": padded[..., 0, 0] + 1}

    def augmented_batch(self, records: Any, seed: int, examples: Any) -> dict[str, Any]:
        return {**self.batch(records), "example": examples}

    def padded_to(self, shape: tuple[int, ...]) -> "NumberCodec":
        return replace(self, shape=shape)


@pytest.fixture
def split(tmp_path):
    random = np.random.default_rng(0)
    lengths = np.minimum(random.geometric(0.1, (500, 2)), 60)
    with RecordWriter(tmp_path / "train.array_record") as writer:
        writer.write(np.arange(500).astype(NumberCodec.dtype))
    write_lengths(tmp_path / "train.array_record", lengths.tolist())
    bounds = tuple(choose_bounds(lengths[:, side], 4) for side in (0, 1))
    found = Lengths(tmp_path / "train.lengths.npy", bounds)
    return lengths, Split(
        "train", tmp_path / "train.array_record", NumberCodec(), 500, lengths=found
    )


def batches_of(split, **options):
    settings = {"global_batch_size": 20, "seed": 3, "shuffle": True} | options
    return Batches(split, **settings)


def padding_of(split, lengths, **options) -> float:
    """Share of the positions of 20 rows that hold nothing, batch by batch without shuffling."""
    batches = batches_of(split, shuffle=False, **options)
    shapes = [batches[number]["padded"].shape[1:] for number in range(len(batches))]
    return 1 - lengths.sum() / (20 * sum(map(sum, shapes)))


def test_bounds_waste_least():
    lengths = [1, 1, 1, 2, 9, 9, 10, 30]
    for count in range(1, 6):
        values = sorted(set(lengths))
        choices = [
            (*inner, 30)
            for size in range(count)
            for inner in itertools.combinations(values[:-1], size)
        ]
        cost = lambda bounds: sum(min(b for b in bounds if b >= one) for one in lengths)  # noqa: E731
        assert cost(choose_bounds(lengths, count)) == min(map(cost, choices))
        assert len(choose_bounds(lengths, count)) <= count
    assert choose_bounds([5, 5], 3) == (5,)
    assert choose_bounds(np.arange(1, 100_000), 8)[-1] == 99_999


def test_one_very_long_example_leaves_the_bounds_of_the_others_where_they_are():
    lengths = np.random.default_rng(0).integers(20, 60, 1000)
    assert choose_bounds([*lengths, 30_000], 5) == (*choose_bounds(lengths, 4), 30_000)
    many = np.arange(1, 5000)
    bounds = choose_bounds(many, 4)
    assert bounds[-1] == 4999 and np.abs(np.array(bounds[:3]) - [1250, 2500, 3750]).max() < 20


def test_every_example_once_an_epoch_in_few_shapes(split):
    lengths, split = split
    batches = batches_of(split)
    shapes, seen = set(), []
    for number in range(50):  # two epochs, of a block each
        batch = batches[number]
        shapes.add(batch["padded"].shape)
        seen += batch["number"].tolist()
        longest = lengths[batch["number"]].max(axis=0)
        assert (batch["padded"].shape[1:] >= longest).all()
    assert sorted(seen[:500]) == sorted(seen[500:]) == list(range(500))
    assert len(shapes) <= 16 and all(shape[0] == 20 for shape in shapes)


def test_padding_is_what_the_batches_hold_and_less_than_without_sorting(split):
    lengths, split = split
    batches = batches_of(split, seed=0)
    padded = sum(sum(batches[number]["padded"].shape[1:]) * 20 for number in range(25))
    padding = split.lengths.padding(20)
    assert padding == pytest.approx(1 - lengths.sum() / padded)
    assert padding < 0.6 * padding_of(split, lengths)


def test_a_batch_depends_on_seed_and_number_alone_and_hosts_read_parts_of_one(split):
    _, split = split
    whole, other_order = batches_of(split), batches_of(split)
    hosts = [batches_of(split, rows=slice(0, 10)), batches_of(split, rows=slice(10, 20))]
    for number in reversed(range(60)):
        other_order[number]
    for number in range(0, 60, 7):
        batch = whole[number]
        for name, array in other_order[number].items():
            np.testing.assert_array_equal(batch[name], array)
        parts = [host[number] for host in hosts]
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    assert not np.array_equal(whole[0]["number"], batches_of(split, seed=4)[0]["number"])


def test_the_example_numbers_are_those_of_the_plain_order(split):
    _, split = split
    plain = batches_of(replace(split, lengths=None, codec=NumberCodec((1, 1))))
    order = np.concatenate([plain[number]["number"] for number in range(25)])
    for number in range(25):
        batch = batches_of(split)[number]
        np.testing.assert_array_equal(order[batch["example"]], batch["number"])


def test_stored_order_is_padded_to_what_each_whole_batch_needs(split):
    lengths, split = split
    batches = batches_of(split, shuffle=False, global_batch_size=64)
    host = batches_of(split, shuffle=False, global_batch_size=64, rows=slice(0, 1))
    for number in range(len(batches)):
        batch = batches[number]
        there = batch["weights"] > 0
        np.testing.assert_array_equal(
            batch["number"][there], np.arange(500)[64 * number : 64 * number + 64]
        )
        shape = batch["padded"].shape[1:]
        assert shape == host[number]["padded"].shape[1:]
        assert shape in set(zip(*split.lengths.bounds, strict=True))
        assert (lengths[batch["number"][there]] <= shape).all()


def test_evaluation_takes_the_longest_first_in_no_more_shapes_than_buckets(split):
    lengths, split = split
    order = evaluation_order(split)
    batches = batches_of(split, shuffle=False, examples=order)
    found = [batches[number] for number in range(len(batches))]
    np.testing.assert_array_equal(np.concatenate([one["number"] for one in found]), order)
    np.testing.assert_array_equal(np.sort(order), np.arange(500))
    shapes = [one["padded"].shape[1:] for one in found]
    assert shapes == sorted(shapes, reverse=True) and len(set(shapes)) <= 4
    for one, shape in zip(found, shapes, strict=True):
        assert (lengths[one["number"]] <= shape).all()
    assert padding_of(split, lengths, examples=order) < 0.8 * padding_of(split, lengths)


def test_of_some_examples_those_that_are_evaluated_are_the_first(split):
    _, split = split
    order = evaluation_order(split, 50)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    batches = batches_of(split, shuffle=False, examples=order)
    assert len(batches) == 3
    assert [int((batches[number]["weights"] > 0).sum()) for number in range(3)] == [20, 20, 10]
    plain = replace(split, lengths=None)
    np.testing.assert_array_equal(evaluation_order(plain, 1000), np.arange(500))
