"""Promises of data.order: every record once an epoch, in an order that anybody can recompute."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import permutation, positions

sizes = st.integers(1, 1000)
batch_sizes = st.integers(1, 500)
seeds = st.integers(0, 2**31 - 1)


def rows_of(batches: range, **order) -> np.ndarray:
    """(epoch, record) of each row of `batches`, int64 [rows, 2]."""
    return np.concatenate([np.stack(positions(k, **order), axis=1) for k in batches])


@given(sizes, batch_sizes, seeds, st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=60)
def test_every_record_comes_once_an_epoch(size, batch_size, seed, first_epoch, epochs):
    start, stop = first_epoch * size, (first_epoch + epochs) * size
    batches = range(start // batch_size, -(-stop // batch_size))
    rows = rows_of(batches, batch_size=batch_size, size=size, seed=seed)
    rows = rows[start - batches.start * batch_size :][: stop - start]
    for number, epoch in enumerate(rows.reshape(epochs, size, 2)):
        assert (epoch[:, 0] == first_epoch + number).all()
        assert (np.sort(epoch[:, 1]) == np.arange(size)).all()


@given(sizes, batch_sizes, seeds, st.integers(0, 10**9), st.data())
def test_hosts_read_the_rows_of_the_same_batch(size, batch_size, seed, batch, data):
    order = {"batch_size": batch_size, "size": size, "seed": seed}
    cuts = sorted(data.draw(st.lists(st.integers(0, batch_size), max_size=7)))
    hosts = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, batch_size])]
    parts = [np.stack(positions(batch, rows=rows, **order)) for rows in hosts]
    assert (np.concatenate(parts, axis=1) == np.stack(positions(batch, **order))).all()


@given(sizes, batch_sizes, seeds, st.integers(0, 1000), st.integers(0, 10))
def test_a_restart_goes_on_with_the_same_rows(size, batch_size, seed, start, count):
    order = {"batch_size": batch_size, "size": size, "seed": seed}
    at_once = rows_of(range(start, start + 2 * count + 1), **order)
    restarted = rows_of(range(start + count, start + 2 * count + 1), **order)
    assert (at_once[count * batch_size :] == restarted).all()


@given(sizes, st.sampled_from([2, 4, 8]), batch_sizes, seeds)
def test_the_sequence_of_examples_does_not_depend_on_the_batch_size(size, split, batch_size, seed):
    large = rows_of(range(4), batch_size=split * batch_size, size=size, seed=seed)
    small = rows_of(range(4 * split), batch_size=batch_size, size=size, seed=seed)
    assert (large == small).all()


@given(st.integers(50, 3000), seeds, st.integers(0, 10**6))
def test_epochs_and_seeds_are_shuffled_differently(size, seed, epoch):
    places = np.arange(size)
    one = permutation(places, size=size, seed=seed, epoch=epoch)
    for other in (
        permutation(places, size=size, seed=seed, epoch=epoch + 1),
        permutation(places, size=size, seed=seed + 1, epoch=epoch),
    ):
        assert (one == other).mean() < 0.25  # expected: once in `size` places


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_all_orders_of_a_few_records_are_equally_likely(size):
    epochs = 20_000
    orders = permutation(np.arange(size), size=size, seed=7, epoch=np.arange(epochs)[:, None])
    _, counts = np.unique(orders, axis=0, return_counts=True)
    expected = epochs / math.factorial(size)
    freedom = math.factorial(size) - 1
    assert len(counts) == freedom + 1
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [10, 30, 100])
def test_neighbours_are_torn_apart(size):
    epochs = np.arange(100_000 // size)[:, None]
    orders = permutation(np.arange(size), size=size, seed=1, epoch=epochs)
    together = (np.diff(orders, axis=1) == 1).sum(axis=1).mean()
    assert together == pytest.approx(1 - 1 / size, abs=0.12)  # what chance gives
    assert (orders == np.arange(size)).sum(axis=1).mean() == pytest.approx(1, abs=0.12)


def test_the_order_never_changes():
    """Whoever resumes a run of last year reads what it would have read."""
    assert permutation(np.arange(10), size=10, seed=0, epoch=0).tolist() == [
        2, 1, 4, 9, 0, 6, 7, 5, 3, 8,
    ]  # fmt: skip
    assert permutation(np.arange(6), size=1000, seed=0, epoch=0).tolist() == [
        863, 420, 69, 930, 85, 288,
    ]  # fmt: skip
    far = permutation([0, 1, 2], size=2**61 + 5, seed=2**70 + 3, epoch=[0, 1, 10**12])
    assert far.tolist() == [
        782369482040555916, 361233471732936557, 358551040854950464,
    ]  # fmt: skip
    epochs, records = positions(3, batch_size=4, size=6, seed=42)
    assert epochs.tolist() == [2, 2, 2, 2]
    assert records.tolist() == [1, 3, 5, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": 6, "size": 6},
        {"index": -1, "size": 6},
        {"index": 0, "size": 0},
        {"index": 0, "size": 2**62},
    ],
)
def test_a_place_that_is_not_there_is_refused(wrong):
    with pytest.raises(ValueError):
        permutation(seed=0, epoch=0, **wrong)
