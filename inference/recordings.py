"""Recordings in files, as models of sound hear them.

Axes: B batch, T frames, F mel bands.
"""

from collections.abc import Sequence

import numpy as np

from data.codecs import LogMel, decode_sound
from inference.on_mesh import rounded_up

SHORTEST = 32
"""Frames that recordings are filled up to."""


def read_recording(content: bytes, log_mel: LogMel) -> np.ndarray:
    """The frames of a file with that content, float32 [T, F]. Raises ValueError for one that is no
    recording, or is shorter than a frame."""
    frames_TF = log_mel(decode_sound(content, log_mel.sample_rate))
    if not len(frames_TF):
        raise ValueError(f"shorter than a frame of {log_mel.window_milliseconds:g} milliseconds")
    return frames_TF


def padded(recordings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """As a batch, float32 [B, T, F] and the segments int32 [B, T] (1 a frame, 0 nothing): its two
    sizes are rounded up to powers of two, so that few programs are compiled."""
    rows = rounded_up(len(recordings))
    length = max(rounded_up(max(map(len, recordings))), SHORTEST)
    frames_BTF = np.zeros((rows, length, recordings[0].shape[1]), np.float32)
    segments_BT = np.zeros((rows, length), np.int32)
    for row, frames_TF in enumerate(recordings):
        frames_BTF[row, : len(frames_TF)], segments_BT[row, : len(frames_TF)] = frames_TF, 1
    return frames_BTF, segments_BT
