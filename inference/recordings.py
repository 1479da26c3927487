"""Reads recordings from files, and pads them to batches of frames.

Axes: B batch, T frames, F mel bands.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from configs.data_spec import DataSpec
from data.codecs.sound import LogMel, RecordingReader
from inference.compiled import next_power_of_two

SHORTEST = 32
"""Shorter recordings are padded to this number of frames."""

MOST_PAIRS = 2**27
"""Largest number of pairs of frames in a batch, because attention compares all pairs. 32 recordings
of 20 seconds have as many."""

FAR_LONGER = 10
"""Without `data.max_seconds`, recordings more than this many times as long as the longest in
training are refused."""


def recording_reader(settings: Any, data_spec: DataSpec) -> RecordingReader:
    """Return the function that turns a file's content into frames. It can be pickled.

    settings: the configuration's `data`.

    Recordings longer than `settings.max_seconds` are refused. Without this limit, a recording may
    be `FAR_LONGER` times as long as the longest one in training (`data_spec.max_frames`).
    """
    log_mel, most = LogMel.of(settings), FAR_LONGER * data_spec.require("max_frames")
    if settings.max_seconds is not None:
        most = int(log_mel.frames(round(settings.max_seconds * settings.sample_rate)))
    return RecordingReader(log_mel, most)


def groups(recordings: Sequence[np.ndarray], most: int) -> Iterator[list[int]]:
    """Yield groups of recordings (frames [T, F] each) to answer in one batch, as lists of indices.

    A group has at most `most` recordings, of similar length. It has fewer if they are long, because
    attention then needs more memory.
    """
    group: list[int] = []
    for index in np.argsort([*map(len, recordings)], kind="stable"):
        length = max(next_power_of_two(len(recordings[index])), SHORTEST)
        if group and len(group) >= min(most, MOST_PAIRS // length**2):
            yield group
            group = []
        group.append(int(index))
    if group:
        yield group


def in_groups(
    recordings: Sequence[np.ndarray],
    most: int,
    answer: Callable[[Sequence[int], np.ndarray, np.ndarray], Sequence[Any]],
) -> list[Any]:
    """Answer recordings in groups; return the answers in the order of the recordings.

    answer(indices, frames, segments): gets the indices of a group, and its batch from `padded`.

    Returns one result for each recording of the group. Further results, for rows of padding, are
    ignored.
    """
    by_index: dict[int, Any] = {}
    for group in groups(recordings, most):
        answers = answer(group, *padded([recordings[index] for index in group]))
        by_index |= zip(group, answers, strict=False)
    return [by_index[index] for index in range(len(recordings))]


def padded(recordings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad recordings to a batch. Return frames, float32 [B, T, F], and segments, int32 [B, T]: 1
    for a frame, 0 for padding. B and T are powers of two, so that few programs are compiled."""
    rows = next_power_of_two(len(recordings))
    length = max(next_power_of_two(max(map(len, recordings))), SHORTEST)
    frames_BTF = np.zeros((rows, length, recordings[0].shape[1]), np.float32)
    segments_BT = np.zeros((rows, length), np.int32)
    for row, frames_TF in enumerate(recordings):
        frames_BTF[row, : len(frames_TF)], segments_BT[row, : len(frames_TF)] = frames_TF, 1
    return frames_BTF, segments_BT
