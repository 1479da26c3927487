"""Random augmentation of training recordings, with a separate generator for each example.

`settings` is the configuration's `data.augmentation`. The order is: shift, speed, gain and noise of
the waveform; then masks over its frames.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.codecs.sound import Waveform, to_rate


def augment(waveform: Waveform, sample_rate: int, random: Generator, settings: Any) -> Waveform:
    """Apply the augmentations of the waveform, which may change its length."""
    if settings.shift_milliseconds:
        waveform = _shift(waveform, random, sample_rate * settings.shift_milliseconds / 1000)
    if settings.speed:
        waveform = to_rate(waveform, random.uniform(1 - settings.speed, 1 + settings.speed), 1)
    if settings.gain_decibels:
        waveform = waveform * _amplitude(random.uniform(-1, 1) * settings.gain_decibels)
    if random.random() < settings.noise_probability:
        ratio = random.uniform(settings.noise_lowest_ratio, settings.noise_highest_ratio)
        waveform = add_noise(waveform, random, ratio)
    return waveform


def changes_waveforms(settings: Any) -> bool:
    """Return whether `settings` change waveforms, not only frames."""
    return bool(
        settings.shift_milliseconds
        or settings.speed
        or settings.gain_decibels
        or settings.noise_probability
    )


def most_samples(samples: int, settings: Any) -> int:
    """Return the most samples that a waveform of `samples` samples may have after augmentation."""
    return int(np.ceil(samples / (1 - settings.speed)))


def mask(frames: NDArray[np.float32], random: Generator, settings: Any, filling: float) -> None:
    """Apply the masks of SpecAugment (Park et al., 2019, arXiv:1904.08779) to `frames` [T, F] in
    place.

    The width of each is uniform from 0 to its maximum, and its position is uniform. Masks may
    overlap.
    """
    length, bands = frames.shape
    for _ in range(settings.frequency_masks):
        frames[:, _stretch(random, settings.frequency_mask_bands, bands)] = filling
    most = min(settings.time_mask_frames, int(settings.time_mask_fraction * length))
    for _ in range(settings.time_masks):
        frames[_stretch(random, most, length)] = filling


def add_noise(waveform: Waveform, random: Generator, ratio: float) -> Waveform:
    """Add white noise whose power is `ratio` decibels below the power of the waveform."""
    loudness = np.sqrt(np.mean(np.square(waveform))) * _amplitude(-ratio)
    return waveform + loudness * random.standard_normal(len(waveform), np.float32)


def _shift(waveform: Waveform, random: Generator, most: float) -> Waveform:
    """Shift by up to `most` samples, at most half the waveform; fill the gap with silence."""
    most = min(round(most), len(waveform) // 2)
    by = int(random.integers(-most, most + 1))
    moved = np.zeros_like(waveform)
    moved[max(by, 0) : len(waveform) + by] = waveform[max(-by, 0) : len(waveform) - by]
    return moved


def _stretch(random: Generator, most: int, length: int) -> slice:
    width = int(random.integers(0, most + 1))
    start = int(random.integers(0, length - width + 1))
    return slice(start, start + width)


def _amplitude(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))
