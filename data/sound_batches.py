"""Stores recordings as records, and makes batches of their frames.

A record contains the frames of a recording, because reading frames is fifty times faster than
computing them. If augmentation changes waveforms, training records contain the waveform instead,
and frames are computed for each batch. Without augmentation, both give the same frames. Waveforms
are rounded to 16-bit integers, scaled by a power of two so that they use the whole range. So 16-bit
recordings are stored without loss, even quiet ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data.augmentation import generator, is_on
from data.codecs.sound import LogMel, Waveform
from data.dataset import ExampleCodec
from data.length_buckets import PaddedShape
from data.sound_augmentation import augment, mask, most_samples

_BITS = 15  # besides the sign
_HEAD = 2  # int32 values at the start of a record: the exponent, and the number of targets
_NOTHING = np.array([0, -1], "<i4").tobytes()


@dataclass(frozen=True)
class SoundCodec(ExampleCodec):
    """Stores recordings, and makes batches of their frames.

    waveforms: whether records contain waveforms instead of frames.
    max_frames: number of frames that batches are padded to (T).
    max_labels: number of transcript tokens that batches are padded to (L); None if each recording
        has one class label instead.
    """

    log_mel: LogMel
    augmentation: Any
    waveforms: bool
    max_frames: int
    max_labels: int | None
    dtype = np.dtype(object)

    @property
    def is_expensive(self) -> bool:
        return self.waveforms or self.is_augmented

    @property
    def is_augmented(self) -> bool:
        return is_on(self.augmentation)

    def encode(self, waveform: Waveform, targets: Sequence[int] | NDArray[np.int32]) -> bytes:
        """Return the record of a recording. targets: its label, or the tokens of its transcript."""
        share, exponent = np.frexp(np.abs(waveform).max())
        exponent -= share == 0.5  # a power of two, such as -1.0, fits one exponent lower
        samples = np.rint(np.ldexp(waveform, _BITS - exponent)).clip(-(2**_BITS), 2**_BITS - 1)
        head = np.array([exponent, len(targets)], "<i4").tobytes()
        content = samples.astype("<i2")
        if not self.waveforms:
            content = self.log_mel(_waveform(content, exponent)).astype("<f4")
        return head + np.asarray(targets, "<i4").tobytes() + content.tobytes()

    def broken_record(self) -> bytes:
        """Return the placeholder that is stored for a broken recording."""
        return _NOTHING

    def batch(self, recordings: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `frames` float32 [B, T, F], `segments` int32 [B, T] (1: a frame, 0: padding),
        `weights` float32 [B] (0: broken).

        Also `label` int32 [B], or `labels` int32 [B, L] with `label_weights` float32 [B, L].
        """
        frames_of = self.log_mel if self.waveforms else lambda frames: frames
        return self._batch(recordings, self.max_frames, lambda row, stored: frames_of(stored))

    def augmented_batch(
        self, recordings: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        def frames(row: int, stored: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._augmented(stored, generator(seed, examples[row]))

        return self._batch(recordings, self.most_frames(), frames)

    def padded_to(self, shape: PaddedShape) -> Self:
        return replace(self, max_frames=shape[0])

    def most_frames(self) -> int:
        """Return the number of frames that augmented batches are padded to.

        It is larger than `max_frames` if augmentation may slow recordings down.
        """
        samples = self.log_mel.most_samples(self.max_frames)
        return int(self.log_mel.frames(most_samples(samples, self.augmentation)))

    def _augmented(
        self, stored: NDArray[np.float32], random: np.random.Generator
    ) -> NDArray[np.float32]:
        frames = stored.copy()
        if self.waveforms:
            waveform = augment(stored, self.log_mel.sample_rate, random, self.augmentation)
            missing = max(
                0, self.log_mel.window - len(waveform)
            )  # if a short recording was sped up
            frames = self.log_mel(np.pad(waveform, (0, missing)))
        mask(frames, random, self.augmentation, filling=float(frames.mean()))
        return frames

    def _batch(
        self,
        recordings: NDArray[Any],
        length: int,
        frames_of: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    ) -> dict[str, NDArray[Any]]:
        """Make a batch.

        length: the number of frames that rows are padded to (T).
        frames_of: maps the number of a row, and the array stored for the row, to the row's frames.
        """
        B, L = len(recordings), self.max_labels or 1
        frames = np.zeros((B, length, self.log_mel.num_mels), np.float32)
        segments, weights = np.zeros((B, length), np.int32), np.zeros(B, np.float32)
        labels, label_weights = np.zeros((B, L), np.int32), np.zeros((B, L), np.float32)
        for row, recording in enumerate(recordings):
            stored, targets = self._read(recording)
            if len(stored):
                found = frames_of(row, stored)[:length]
                frames[row, : len(found)], segments[row, : len(found)] = found, 1
                labels[row, : len(targets)], label_weights[row, : len(targets)] = targets, 1
                weights[row] = 1
        batch = {"frames": frames, "segments": segments}
        if self.max_labels is None:
            return batch | {"label": labels[:, 0], "weights": weights}
        return batch | {"labels": labels, "label_weights": label_weights, "weights": weights}

    def _read(self, record: Any) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return the stored waveform or frames, and the targets. Both are empty for a broken
        recording and for a row of padding."""
        record = record if isinstance(record, bytes) else _NOTHING
        exponent, count = np.frombuffer(record, "<i4", _HEAD)
        if count < 0:
            return np.zeros(0, np.float32), np.zeros(0, np.int32)
        start = 4 * (_HEAD + count)
        targets = np.frombuffer(record, "<i4", count, 4 * _HEAD)
        if self.waveforms:
            return _waveform(np.frombuffer(record, "<i2", offset=start), exponent), targets
        frames = np.frombuffer(record, "<f4", offset=start)
        return frames.reshape(-1, self.log_mel.num_mels), targets


def _waveform(samples: NDArray[np.int16], exponent: int) -> Waveform:
    return np.ldexp(samples.astype(np.float32), exponent - _BITS)
