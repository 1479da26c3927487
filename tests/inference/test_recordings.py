"""Promises of recordings that are asked about: long ones crowd no other out, or are told."""

import numpy as np
import pytest

from configs.data_spec import DataSpec
from configs.schema.sound import SoundLabels
from inference.recordings import MOST_PAIRS, groups, in_groups, padded, recording_reader
from tests.data.test_sound_codec import encoded, voice

SETTINGS = {"path": "x.csv", "sample_rate": 8000, "num_mels": 20}


def recordings(*lengths: int) -> list[np.ndarray]:
    return [np.zeros((length, 1), np.float32) for length in lengths]


def test_each_is_in_one_group_with_those_of_its_length():
    lengths = [100, 30_000, 120, 3000, 90, 2500, 2900, 110]
    found = [*groups(recordings(*lengths), most=3)]
    assert [[lengths[index] for index in group] for group in found] == [
        [90, 100, 110], [120, 2500, 2900], [3000], [30_000],
    ]  # fmt: skip
    assert sorted(index for group in found for index in group) == [*range(8)]


def test_answers_come_in_the_order_of_the_recordings():
    lengths = [100, 3000, 120, 90]

    def answer(group, frames_BTF, segments_BT):
        return [(index, row.sum()) for index, row in zip(group, segments_BT, strict=False)]

    assert in_groups(recordings(*lengths), 2, answer) == [*enumerate(lengths)]


@pytest.mark.parametrize(("length", "rows"), [(2000, 32), (4000, 8), (8000, 2), (9000, 1)])
def test_attention_compares_no_more_frames_than_there_is_room_for(length, rows):
    assert next(len(group) for group in groups(recordings(*[length] * 33), most=32)) == rows
    frames_BTF, _ = padded(recordings(*[length] * rows))
    assert rows == 1 or len(frames_BTF) * frames_BTF.shape[1] ** 2 <= MOST_PAIRS


@pytest.mark.parametrize(("max_seconds", "most"), [(None, "4.015"), (0.4, "0.395")])
def test_what_is_far_longer_than_anything_the_model_has_heard_is_refused(max_seconds, most):
    read = recording_reader(
        SoundLabels(**SETTINGS, max_seconds=max_seconds), DataSpec(max_frames=40)
    )
    assert len(read(encoded(voice(0.4)))) == 38
    with pytest.raises(
        ValueError, match=f"it lasts 4.995 seconds, and this model takes {most} at most"
    ):
        read(encoded(voice(5.0)))
