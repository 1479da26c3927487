"""Sets of sound that TensorFlow Datasets has prepared, such as librispeech and speech_commands.

They are read record by record: what the library itself makes of a feature of sound needs
TensorFlow.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.codecs.sound import Waveform, decode_sound, to_rate
from data.sources.prepared import PreparedSet, open_set
from data.sources.source import RawSplits
from data.sources.tables import decode

_LOUDEST = 2**15  # of integers, which are samples of 16 bits


@dataclass(frozen=True)
class PreparedSound:
    """The recordings of a set, with what `target` holds: transcripts, or labels of `classes`.

    They stay in its own files. held_out: share of the training part that is held out for
    validation, by a hash of each one's number.
    """

    name: str
    found: PreparedSet
    sound: str
    target: str
    classes: tuple[str, ...] | None
    held_out: float
    warnings: tuple[str, ...]

    @cached_property
    def numbers(self) -> Mapping[str, NDArray[np.int64]]:
        """The records of each split, by their numbers in the set's own split."""
        return self.found.numbers(self.held_out)

    @property
    def splits(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.numbers.items()}

    def source_key(self) -> dict[str, Any]:
        fields = [self.sound, self.target]
        return {"info": self.found.digest(), "fields": fields, "held_out": self.held_out}

    def random_access(self) -> RawSplits:
        return {split: self._recordings(split) for split in self.numbers}

    def _recordings(self, split: str) -> "_Recordings":
        stored = split if split in self.found.splits else "train"
        return _Recordings(self, stored, self.numbers[split])


@dataclass(frozen=True)
class _Recordings(Sequence):
    """Those with `numbers` of the set's own split `stored`."""

    source: PreparedSound
    stored: str
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_pb2

        number, source = int(self.numbers[index]), self.source
        name = f"{self.stored} {number}"
        try:
            record = tf_example_pb2.Example.FromString(self._records[number])
        except Exception as error:  # ArrayRecord and protobuf have their own
            raise UsageError(f"{name} of {source.found.folder} can't be read: {error}") from None
        features = record.features.feature
        feature = source.found.features[source.sound]["audio"]
        found = {"sound": partial(_decode, features[source.sound], feature), "name": name}
        if source.classes is None:
            (text,) = features[source.target].bytes_list.value
            return found | {"text": decode(text, "error", f"{source.found.folder}, {name}")}
        return found | {"label": features[source.target].int64_list.value[0]}

    @cached_property
    def _records(self) -> Sequence[bytes]:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        files = _shards(self.source.found.folder, self.stored)
        there = ArrayRecordDataSource([*map(str, files)]) if files else ()
        if len(there) != (said := self.source.found.rows(self.stored)):
            raise UsageError(
                f"split {self.stored} of {self.source.found.folder} has {len(there):,} of its "
                f"{said:,} recordings: prepare the set again"
            )
        return there


def open_transcripts(settings: Any) -> PreparedSound:
    """The recordings of the set `data.name` with their transcripts.

    Its splits train, validation and test are read; without a validation part
    `data.validation_fraction` of the training part is held out. Raises UsageError.
    """
    return _open(settings, "data.text_field", settings.text_field, "Text")


def open_labels(settings: Any) -> PreparedSound:
    """The same, with their labels."""
    return _open(settings, "data.label_field", settings.label_field, "ClassLabel")


def _open(settings: Any, setting: str, target: str, kind: str) -> PreparedSound:
    found = open_set(settings)
    found.check("data.sound_field", settings.sound_field, "Audio")
    found.check(setting, target, kind)
    if not found.rows("train"):
        raise UsageError(f"{found.where} has no recording in train")
    classes = found.class_names(target) if kind == "ClassLabel" else None
    held_out = 0.0 if "validation" in found.splits else settings.validation_fraction
    sound, warnings = settings.sound_field, []
    if not _rate(found.features[sound]["audio"]):
        warnings.append(
            f"{found.where} does not say at what rate {sound} was recorded: it is taken for "
            f"data.sample_rate={settings.sample_rate}"
        )
    return PreparedSound(settings.source, found, sound, target, classes, held_out, tuple(warnings))


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"*-{split}.array_record-*-of-*"))


def _rate(feature: Mapping[str, Any]) -> int:
    """Samples a second; 0 where the set does not say it."""
    return int(feature.get("sampleRate", 0))


def _decode(value: Any, feature: Mapping[str, Any], sample_rate: int) -> Waveform:
    """What a record holds of a recording, of which the set describes the `feature`."""
    if feature.get("lazyDecode"):
        return decode_sound(value.bytes_list.value[0], sample_rate)
    samples = _samples(value, feature)
    if samples.dtype.kind == "i":
        samples = samples / np.float32(_LOUDEST)
    channels = [int(size) for size in feature["shape"]["dimensions"][1:]]
    if channels:
        samples = samples.reshape(-1, *channels).mean(axis=1)
    return to_rate(samples.astype(np.float32), _rate(feature) or sample_rate, sample_rate)


def _samples(value: Any, feature: Mapping[str, Any]) -> NDArray[Any]:
    kind = value.WhichOneof("kind")
    if kind is None:  # of no sample
        return np.zeros(0, np.float32)
    if kind != "bytes_list":
        return np.array(getattr(value, kind).value)
    (content,) = value.bytes_list.value
    if feature["encoding"].lower() == "zlib":
        try:
            content = zlib.decompress(content)
        except zlib.error as error:
            raise ValueError(f"no recording that can be decoded: {error}") from error
    return np.frombuffer(content, feature["dtype"])
