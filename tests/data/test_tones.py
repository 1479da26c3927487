"""Promises of the telephone tones: what was dialled can be heard, and the test was never learnt."""

import numpy as np
import pytest

from configs.schema.sound import Tones
from data.batches import Batches
from data.preparation import prepare
from data.sources.tones import _TONES, RATE, dial


def hear(waveform: np.ndarray) -> str:
    """The number in it, by the power at each tone's frequency: as exchanges do (Goertzel)."""
    width, hop = 320, 80
    starts = range(0, len(waveform) - width, hop)
    times = np.arange(width) / RATE
    tones = sorted({hertz for pair in _TONES.values() for hertz in pair})
    turning = np.exp(-2j * np.pi * np.outer(times, tones)) * np.hanning(width)[:, None]
    power = np.array([np.abs(waveform[s : s + width] @ turning) for s in starts])
    low, high = power[:, :4], power[:, 4:]
    loud = (low.max(axis=1) + high.max(axis=1)) > 0.5 * np.percentile(power.sum(axis=1), 90)
    keys = {pair: key for key, pair in _TONES.items()}
    heard, before = "", False
    for frame in range(len(power)):
        if loud[frame] and not before:
            middle = frame + np.argmin(loud[frame:]) // 2
            heard += keys[tones[low[middle].argmax()], tones[4 + high[middle].argmax()]]
        before = loud[frame]
    return heard


@pytest.mark.parametrize("number", ["0123456789", "555", "110022", "007"])
def test_what_was_dialled_can_be_heard(number):
    assert hear(dial(number, lowest_ratio=30.0)) == number


def test_numbers_differ_in_speed_level_and_noise_and_one_is_always_the_same():
    numbers = [str(n) for n in range(100, 200)]
    waveforms = [dial(number, 0.0) for number in numbers]
    seconds = [len(one) / RATE for one in waveforms]
    assert 0.3 < min(seconds) < 0.8 and 1.0 < max(seconds) < 2
    levels = [20 * np.log10(np.abs(one).max()) for one in waveforms]
    assert np.ptp(levels) > 15 and max(levels) <= 0
    assert all((dial(n, 0.0) == one).all() for n, one in zip(numbers, waveforms, strict=True))


def test_numbers_of_the_parts_differ_and_have_the_lengths_asked_for():
    dataset = prepare(Tones(recordings=300, most_digits=5))
    names = {split: one.names() for split, one in dataset.splits.items()}
    assert len(names["train"]) + len(names["validation"]) == 300
    assert len(names["test"]) == 30
    every = [number for of in names.values() for number in of]
    assert len({*every}) == len(every)
    assert {len(number) for number in every} == {3, 4, 5}
    assert dataset.spec.max_labels == 5
    assert dataset.spec.vocabulary_size == 12
    batch = Batches(dataset.splits["test"], global_batch_size=30, seed=0, shuffle=False)[0]
    told = [dataset.tokenizer.decode(row[weights > 0]) for row, weights in
            zip(batch["labels"], batch["label_weights"], strict=True)]  # fmt: skip
    assert told == names["test"]
    assert dataset.warnings == ()


def test_more_numbers_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"data.recordings=600 are more different numbers"):
        Tones(recordings=600, most_digits=3)
    assert prepare(Tones(recordings=500, most_digits=3, num_mels=4)).splits
