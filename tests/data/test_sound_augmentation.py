"""Promises of augmented sound: (seed, example) decide it; evaluation has none."""

import numpy as np
import pytest

from configs.schema.sound import SoundAugmentation, Tones
from data.augmentation import generator
from data.batches import Batches
from data.dataset import Dataset
from data.order import permutation
from data.prefetch import stream
from data.preparation import prepare
from data.sound_augmentation import augment, mask
from tests.data.test_augmentation import assert_equal
from tests.data.test_sound_codec import voice

EVERYTHING = SoundAugmentation(
    shift_milliseconds=50.0,
    speed=0.1,
    gain_decibels=6.0,
    noise_probability=0.5,
    frequency_masks=2,
    frequency_mask_bands=5,
    time_masks=2,
)
MASKS = EVERYTHING.model_copy(
    update={"shift_milliseconds": 0.0, "speed": 0.0, "gain_decibels": 0.0, "noise_probability": 0.0}
)
KINDS = {"waveforms": EVERYTHING, "frames": MASKS}
TONES = {"recordings": 60, "num_mels": 20, "normalization": "none", "length_buckets": 3}


@pytest.fixture(params=KINDS)
def dataset(request) -> Dataset:
    return prepare(Tones(**TONES, augmentation=KINDS[request.param]))


def batches(dataset: Dataset, **changes) -> Batches:
    given = {"global_batch_size": 8, "seed": 5, "shuffle": True} | changes
    return Batches(dataset.splits["train"], **given)


def test_from_the_middle_batches_are_the_same(dataset):
    every = [batches(dataset)[number] for number in range(12)]
    for number, batch in enumerate(stream(batches(dataset), 5, 12, 0), 5):
        assert_equal(batch, every[number])


@pytest.mark.parametrize("dataset", ["waveforms"], indirect=True)
def test_two_workers_give_the_same_batches(dataset):
    for number, batch in enumerate(stream(batches(dataset), 3, 9, 2), 3):
        assert_equal(batch, batches(dataset)[number])


def test_two_hosts_get_the_rows_of_one(dataset):
    hosts = [batches(dataset, rows=slice(start, start + 4)) for start in (0, 4)]
    for number in (0, 3, 9):
        parts = [host[number] for host in hosts]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_equal(joined, batches(dataset)[number])


def real_frames(batch: dict) -> list[np.ndarray]:
    """Of each row, without padding."""
    pairs = zip(batch["frames"], batch["segments"], strict=True)
    return [frames[segments > 0] for frames, segments in pairs]


def test_an_example_is_the_same_with_other_buckets(dataset):
    """The batch it is in, and its padding, are others."""
    epoch = dataset.splits["train"].examples // 8
    settings = {
        **TONES,
        "length_buckets": 1,
        "augmentation": dataset.splits["train"].codec.augmentation,
    }
    other = prepare(Tones(**settings))
    found = [
        {frames.tobytes() for n in range(epoch) for frames in real_frames(batches(one)[n])}
        for one in (dataset, other)
    ]
    assert len(found[0] & found[1]) == len(found[0]) == 8 * epoch


def test_a_recording_changes_from_epoch_to_epoch_and_from_seed_to_seed(dataset):
    size = dataset.splits["train"].examples
    one = batches(dataset, global_batch_size=1)
    heard = []
    for epoch in range(3):
        order = permutation(np.arange(size), size=size, seed=5, epoch=epoch)
        assert (order == 3).any()
        of_epoch = {
            tuple(b["labels"][0]): b
            for b in map(one.__getitem__, range(epoch * size, (epoch + 1) * size))
        }
        heard.append({labels: batch["frames"].tobytes() for labels, batch in of_epoch.items()})
    assert heard[0].keys() == heard[1].keys() == heard[2].keys()
    changed = [len({epoch[labels] for epoch in heard}) for labels in heard[0]]
    assert np.mean(changed) > 2.9
    assert (batches(dataset, seed=6)[0]["frames"] != batches(dataset)[0]["frames"][:, :1]).any()


def test_evaluation_never_augments(dataset):
    plain = prepare(Tones(**TONES))
    for split in ("train", "validation", "test"):
        one, other = (
            Batches(of.splits[split], global_batch_size=8, seed=0, shuffle=False)[0]
            for of in (dataset, plain)
        )
        assert_equal(one, other)
    assert batches(dataset)[0]["frames"].shape[1] >= batches(plain)[0]["frames"].shape[1]


def test_whole_recordings_fit_however_slowly_they_are_played():
    slow = SoundAugmentation(speed=0.5)
    dataset = prepare(Tones(**TONES, augmentation=slow))
    lengths = []
    for number in range(20):
        batch = batches(dataset)[number]
        frames = batch["segments"].sum(axis=1)
        assert frames.max() <= batch["segments"].shape[1] <= dataset.spec.max_frames
        lengths.append(frames.max() / batch["segments"].shape[1])
    assert 0.8 < max(lengths) <= 1
    longest = dataset.splits["train"].codec.max_frames
    assert dataset.splits["train"].codec.most_frames() == pytest.approx(2 * longest, abs=4)


RATE, VOICE = 8000, voice(0.5)


def changed(seed: int, **settings) -> np.ndarray:
    return augment(VOICE, RATE, generator(seed, 1), SoundAugmentation(**settings))


def test_nothing_is_changed_unless_asked_for():
    assert (changed(0) == VOICE).all()


def test_the_shift_moves_by_at_most_what_was_asked_for():
    starts = []
    for seed in range(100):
        found = changed(seed, shift_milliseconds=10.0)
        assert len(found) == len(VOICE)
        (by,) = (
            by for by in range(-80, 81)
            if (found[max(by, 0) : 4000 + by] == VOICE[max(-by, 0) : 4000 - by]).all()
        )  # fmt: skip
        assert not found[:by].any() if by > 0 else not found[4000 + by :].any()
        starts.append(by)
    assert min(starts) < -60 and max(starts) > 60
    assert len(changed(0, shift_milliseconds=10_000.0)) == len(VOICE)


def test_speed_changes_length_and_pitch():
    lengths, pitches = [], []
    for seed in range(60):
        found = changed(seed, speed=0.2)
        lengths.append(len(found) / len(VOICE))
        pitches.append(np.abs(np.fft.rfft(found)).argmax() / len(found) * RATE / 200)
    assert 1 / 1.2 <= min(lengths) < 0.87 and 1.15 < max(lengths) <= 1 / 0.8 + 1e-3
    np.testing.assert_allclose(np.multiply(lengths, pitches), 1, atol=0.02)


def test_gain_and_noise_are_as_loud_as_asked_for():
    gains = [20 * np.log10(np.abs(changed(n, gain_decibels=6.0)).max() / np.abs(VOICE).max())
             for n in range(100)]  # fmt: skip
    assert -6 <= min(gains) < -5 and 5 < max(gains) <= 6.001
    ratios = []
    for seed in range(100):
        settings = {"noise_lowest_ratio": 5.0, "noise_highest_ratio": 15.0}
        noise = changed(seed, noise_probability=1.0, **settings) - VOICE
        ratios.append(10 * np.log10(np.mean(VOICE**2) / np.mean(noise**2)))
        assert abs(noise.mean()) < 0.1 * noise.std()
    assert 4.8 < min(ratios) < 6 and 14 < max(ratios) < 15.2
    noisy = sum((changed(n, noise_probability=0.3) != VOICE).any() for n in range(300))
    assert 60 < noisy < 120
    silence = np.zeros(4000, np.float32)
    settings = SoundAugmentation(noise_probability=1.0)
    assert not augment(silence, RATE, generator(0, 0), settings).any()


def test_masks_cover_at_most_what_was_asked_for():
    settings = SoundAugmentation(frequency_masks=1, frequency_mask_bands=6, time_masks=1,
                                 time_mask_frames=30, time_mask_fraction=0.1)  # fmt: skip
    bands, times = [], []
    for seed in range(300):
        frames = np.ones((200, 40), np.float32)
        mask(frames, generator(seed, 0), settings, filling=-1.0)
        assert set(np.unique(frames)) <= {1.0, -1.0}
        masked = frames < 0
        for axis, found in ((0, bands), (1, times)):
            (places,) = np.nonzero(masked.all(axis=axis))
            assert len(places) == 0 or np.ptp(places) + 1 == len(places)
            found.append(len(places))
    assert (min(bands), max(bands)) == (0, 6)
    assert (min(times), max(times)) == (0, 20)  # a tenth of 200
    assert np.mean(bands) == pytest.approx(3, abs=0.5)


def test_masks_are_filled_with_the_mean():
    for normalization in ("none", "bands"):
        dataset = prepare(Tones(**TONES | {"normalization": normalization}, augmentation=MASKS))
        frames = real_frames(batches(dataset)[0])
        for one in frames:
            values, counts = np.unique(one, return_counts=True)
            filling = values[counts.argmax()]
            assert counts.max() > len(one) / 2
            assert abs(filling - one.mean()) < 0.5
            assert normalization == "none" or abs(filling) < 1e-3


def test_a_recording_of_one_frame_survives_being_played_fast():
    codec = prepare(Tones(**TONES, augmentation=SoundAugmentation(speed=0.5))).splits["train"].codec
    record = np.array([codec.encode(voice(0.025), [3])], object)
    for example in range(10):
        batch = codec.augmented_batch(record, 0, np.array([example]))
        assert batch["weights"] == 1 and batch["segments"].sum() >= 1
