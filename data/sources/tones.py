"""Generates recordings: telephone numbers in touch tones (DTMF, ITU-T Q.23).

Each digit is a sum of two tones. A random generator, seeded with the number, draws the speed, the
length of each tone and pause, the loudness of both tones, their error in frequency, and the noise.
No number occurs twice, so training contains no number of the test.
"""

from functools import partial
from typing import Any

import numpy as np

from data.augmentation import generator
from data.codecs.sound import Waveform, to_rate
from data.sound_augmentation import add_noise
from data.sources.source import MadeExamples, Source, hold_out

VERSION = 1
"""Part of the cache key. Increase it when this file generates different examples."""

RATE = 8000  # samples per second, as for telephones
_LOW, _HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz, of rows and columns of the keys
_KEYS = ("123", "456", "789", "*0#")
_TONES = {key: (low, high) for low, keys in zip(_LOW, _KEYS, strict=True)
          for high, key in zip(_HIGH, keys, strict=True)}  # fmt: skip
_FEWEST = 3  # digits
_TONE, _PAUSE, _EDGE = (0.06, 0.12), (0.04, 0.1), (0.05, 0.3)  # seconds; the edge is silent
_PACE = (0.8, 1.5)  # a factor on the lengths of tones and pauses, per number
_RAMP = 0.004  # seconds in which a tone fades in and out, to avoid clicks
_DETUNED = 0.015  # relative error of a tone's frequency, which exchanges must accept
_LEVEL, _TWIST = (-30.0, -6.0), 4.0  # decibels: of the whole, and of one tone relative to the other
_RATIOS = 30.0  # decibels from the lowest to the highest signal-to-noise ratio


def open_source(settings: Any) -> Source:
    """Open `data.recordings` numbers of 3 to `data.most_digits` digits, and a tenth as many for
    test. Of the former, `data.validation_fraction` is held out for validation, by a hash of the
    number."""
    test = -(-settings.recordings // 10)
    random = generator(0, 0)
    distinct: dict[str, None] = {}
    while len(distinct) < settings.recordings + test:
        count = random.integers(_FEWEST, settings.most_digits + 1)
        distinct["".join(map(str, random.integers(0, 10, count)))] = None
    drawn = [*distinct]
    train, validation = hold_out(drawn[test:], settings.validation_fraction, str)
    numbers = {"train": train, "validation": validation, "test": drawn[:test]}
    make = partial(_example, settings.lowest_ratio)
    named = ("recordings", "most_digits", "lowest_ratio", "validation_fraction")
    return Source(
        "tones",
        {split: MadeExamples(of, make) for split, of in numbers.items() if of},
        {"version": VERSION, "drawn": [getattr(settings, name) for name in named]},
        settings.validation_fraction,
    )


def dial(number: str, lowest_ratio: float) -> Waveform:
    """Return the waveform of dialing `number`: float32 [samples], at 8,000 Hz.

    lowest_ratio: the lowest signal-to-noise ratio that may be drawn, in decibels.
    """
    random = generator(1, int(f"1{number}"))  # 0012 is not 12
    pace, level = random.uniform(*_PACE), 10 ** (random.uniform(*_LEVEL) / 20)
    twist = 10 ** (random.uniform(-_TWIST, _TWIST) / 40)
    off = 1 + random.uniform(-_DETUNED, _DETUNED, 2)
    pieces = [_silence(random.uniform(*_EDGE))]
    for key in number:
        low, high = _TONES[key] * off
        seconds = pace * random.uniform(*_TONE)
        pieces.append(level * (_tone(low, seconds) / twist + _tone(high, seconds) * twist) / 2)
        pieces.append(_silence(pace * random.uniform(*_PAUSE)))
    pieces.append(_silence(random.uniform(*_EDGE)))
    ratio = random.uniform(lowest_ratio, lowest_ratio + _RATIOS)
    return add_noise(np.concatenate(pieces).astype(np.float32), random, ratio)


def _example(lowest_ratio: float, number: str) -> dict[str, Any]:
    return {"sound": partial(_sound, number, lowest_ratio), "text": number, "name": number}


def _sound(
    number: str, lowest_ratio: float, sample_rate: int, most_seconds: float | None = None
) -> Waveform:
    return to_rate(dial(number, lowest_ratio), RATE, sample_rate)


def _tone(hertz: float, seconds: float) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    edges = np.minimum(times, times[::-1]) / _RAMP
    return np.sin(2 * np.pi * hertz * times) * np.minimum(edges, 1)


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE))
