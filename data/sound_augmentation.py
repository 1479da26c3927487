"""Random augmentation of training recordings. Each example has its own random generator.

`settings` is `config.data.augmentation`. The augmentations are applied in this order: shift, speed,
gain and noise to the waveform; then masks to its frames.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.codecs.sound import Waveform, to_rate


def augment(waveform: Waveform, sample_rate: int, random: Generator, settings: Any) -> Waveform:
    """Return `waveform` with shift, speed, gain and noise applied; its length may change."""
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
    """Return whether `settings` turn on an augmentation of the waveform, not only of frames."""
    return bool(
        settings.shift_milliseconds
        or settings.speed
        or settings.gain_decibels
        or settings.noise_probability
    )


def most_samples(samples: int, settings: Any) -> int:
    """Return the maximum length, after augmentation, of a waveform of `samples` samples."""
    return int(np.ceil(samples / (1 - settings.speed)))


def mask(frames: NDArray[np.float32], random: Generator, settings: Any, filling: float) -> None:
    """Apply the masks of SpecAugment (Park et al., 2019, arXiv:1904.08779) in place.

    frames: float32 [T, F].
    filling: the value of masked elements.

    The width of each mask is uniform from 0 to its maximum, and its position is uniform. Masks may
    overlap.
    """
    length, bands = frames.shape
    for _ in range(settings.frequency_masks):
        frames[:, _stretch(random, settings.frequency_mask_bands, bands)] = filling
    most = min(settings.time_mask_frames, int(settings.time_mask_fraction * length))
    for _ in range(settings.time_masks):
        frames[_stretch(random, most, length)] = filling


def add_noise(waveform: Waveform, random: Generator, ratio: float) -> Waveform:
    """Add white noise with a power of `ratio` decibels below the power of the waveform."""
    loudness = np.sqrt(np.mean(np.square(waveform))) * _amplitude(-ratio)
    return waveform + loudness * random.standard_normal(len(waveform), np.float32)


def _shift(waveform: Waveform, random: Generator, most: float) -> Waveform:
    """Shift by up to `most` samples, but by half the waveform at most; fill with silence."""
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
