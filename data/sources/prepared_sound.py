"""Decodes the audio features of data sets that TensorFlow Datasets prepared.

The library's own decoding of audio features needs TensorFlow.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.codecs.sound import Waveform, decode_sound, to_rate

_LOUDEST = 2**15  # full scale of integers, which are 16-bit samples


def rate_of(feature: Mapping[str, Any]) -> int:
    """Return the sample rate in Hz; 0 if the set does not say."""
    return int(feature.get("sampleRate", 0))


def decode_feature(
    value: Any, feature: Mapping[str, Any], sample_rate: int, most_seconds: float | None = None
) -> Waveform:
    """Return the waveform in a record's `value`. feature: the set's description of its type."""
    if feature.get("lazyDecode"):
        return decode_sound(value.bytes_list.value[0], sample_rate, most_seconds=most_seconds)
    samples = _samples(value, feature)
    if samples.dtype.kind == "i":
        samples = samples / np.float32(_LOUDEST)
    channels = [int(size) for size in feature["shape"]["dimensions"][1:]]
    if channels:
        samples = samples.reshape(-1, *channels).mean(axis=1)
    return to_rate(samples.astype(np.float32), rate_of(feature) or sample_rate, sample_rate)


def _samples(value: Any, feature: Mapping[str, Any]) -> NDArray[Any]:
    kind = value.WhichOneof("kind")
    if kind is None:  # the recording has no samples
        return np.zeros(0, np.float32)
    if kind != "bytes_list":
        return np.array(getattr(value, kind).value)
    (content,) = value.bytes_list.value
    if feature["encoding"].lower() == "zlib":
        try:
            content = zlib.decompress(content)
        except zlib.error as error:
            raise ValueError("no recording that can be decoded: it is damaged") from error
    return np.frombuffer(content, feature["dtype"])
