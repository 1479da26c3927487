"""Promises of data.best_fit: whole documents, every token a target once, little padding."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.data import TextFiles
from configs.schema.tokenizers import Bytes
from data import best_fit as packing
from data.batches import Batches
from data.best_fit import BestFitCodec, best_fit
from data.preparation import prepare
from data.show import data_table, describe_batch

SEPARATOR = 0
documents = st.lists(st.lists(st.integers(1, 99), max_size=60), min_size=1, max_size=12)


def pack(codec: BestFitCodec, texts: list[list[int]], cut: int = 10**9) -> np.ndarray:
    """The stored windows of documents that come in pieces of `cut` tokens."""
    whole = [np.array([SEPARATOR, *text], np.int32) for text in texts]
    pieces = [one[at : at + cut] for one in whole for at in range(0, len(one), cut)]
    return np.concatenate([np.empty(0, codec.dtype), *codec.pack(pieces)])


def runs(batch: dict) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of each segment."""
    found = []
    for row in range(len(batch["tokens"])):
        segments = batch["segments"][row]
        for number in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == number)
            assert (np.diff(places) == 1).all()
            found.append((batch["tokens"][row][places].tolist(),
                          batch["targets"][row][places].tolist()))  # fmt: skip
    return found


@given(documents, st.integers(2, 20), st.integers(1, 30), st.integers(20, 400))
def test_every_token_but_each_first_is_a_target_once(texts, length, cut, block):
    codec = BestFitCodec(length, 100, SEPARATOR)
    before, packing.BLOCK_TOKENS = packing.BLOCK_TOKENS, block
    try:
        batch = codec.batch(pack(codec, texts, cut))
    finally:
        packing.BLOCK_TOKENS = before
    expected = []
    for text in texts:
        whole = [SEPARATOR, *text, SEPARATOR]
        starts = range(0, len(whole) - 1, length)
        expected += [
            (whole[a : a + length + 1][:-1], whole[a + 1 : a + length + 1]) for a in starts
        ]
    assert sorted(runs(batch)) == sorted(expected)
    assert ((batch["segments"] > 0) == (batch["weights"] == 1)).all()
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    tokens = sum(len(text) + 1 for text in texts)
    assert batch["weights"].sum() == codec.targets(tokens)
    for name in ("tokens", "targets", "segments"):
        assert batch[name].dtype == np.int32 and batch[name].shape[1] == length


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80))
def test_each_goes_where_the_least_room_is_enough(lengths):
    lengths = sorted(lengths, reverse=True)
    rooms: list[int] = []
    for length, place in zip(lengths, best_fit(lengths, 50), strict=True):
        enough = [room for room in rooms if room >= length]
        if enough:
            assert rooms[place] == min(enough)
        else:
            assert place == len(rooms)
            rooms.append(50)
        rooms[place] -= length
    assert min(rooms) >= 0


def test_many_documents_take_few_windows_and_little_time():
    chance = random.Random(0)
    lengths = sorted((int(chance.lognormvariate(5, 1)) % 2048 + 1 for _ in range(200_000)),
                     reverse=True)  # fmt: skip
    places = best_fit(lengths, 2048)
    assert 1 - sum(lengths) / (2048 * (max(places) + 1)) < 1e-3


def test_a_prepared_set_states_its_padding_and_keeps_documents_apart(corpus):
    options = {"path": str(corpus), "sequence_length": 256, "tokenizer": Bytes()}
    told: list[str] = []
    dataset = prepare(TextFiles(**options, packing="best_fit"), warn=told.append)
    windows = prepare(TextFiles(**options))
    assert dataset.fingerprint != windows.fingerprint
    table = {name: cells for name, *cells in data_table(dataset)}
    for number, split in enumerate(dataset.splits.values()):
        batches = Batches(split, global_batch_size=split.examples, seed=0, shuffle=False)
        weights, segments = batches[0]["weights"], batches[0]["segments"]
        assert weights.sum() == split.targets
        assert split.padding == pytest.approx(1 - weights.mean(), abs=1e-6)
        assert table["padding"][number] == f"{split.padding:.2%}"
        assert f"packing {split.name}: {split.padding:.2%}" in told[number]
        assert segments.max() > 1
        assert split.bytes == windows.splits[split.name].bytes
    assert windows.splits["train"].padding is None
    batches = Batches(dataset.splits["train"], global_batch_size=2, seed=0, shuffle=False)
    assert "segment" in describe_batch(batches[0], dataset)
