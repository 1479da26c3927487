"""Sources of audio data sets prepared by TensorFlow Datasets, such as librispeech and
speech_commands.

Records are parsed here, since the library's own decoding of audio features needs TensorFlow.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.codecs.sound import Waveform, decode_sound, to_rate
from data.sources.prepared import PreparedExamples, PreparedSet, open_set
from data.sources.tables import decode

_LOUDEST = 2**15  # full scale of integers, which are 16-bit samples


@dataclass(frozen=True)
class PreparedSound(PreparedExamples):
    """A source of the recordings of a data set.

    classes: the names of the classes; None if recordings have transcripts.
    """

    classes: tuple[str, ...] | None
    warnings: tuple[str, ...]

    def reader(self, stored: str) -> Callable[[int], dict[str, Any]]:
        from tensorflow_datasets.proto import tf_example_pb2

        records = cache(partial(_open_records, self.found, stored))
        feature = self.found.features[self.content_field]["audio"]

        def read(number: int) -> dict[str, Any]:
            name, number = f"{stored} {number}", int(number)
            try:
                record = tf_example_pb2.Example.FromString(records()[number])
            except Exception as error:  # ArrayRecord and protobuf raise their own errors
                raise UsageError(f"{name} of {self.found.folder} can't be read: {error}") from None
            fields = record.features.feature
            found = {"sound": partial(_decode, fields[self.content_field], feature), "name": name}
            target = fields[self.target_field]
            if self.classes is None:
                (text,) = target.bytes_list.value
                return found | {"text": decode(text, "error", f"{self.found.folder}, {name}")}
            return found | {"label": target.int64_list.value[0]}

        return read


def open_transcripts(settings: Any) -> PreparedSound:
    """Open the recordings of the set `data.name` with their transcripts.

    The splits train, validation and test are read. Without a validation split,
    `data.validation_fraction` of train is held out. Raises UsageError if the set or one of its
    features `data.sound_field` and `data.text_field` is missing, or if a feature has another type.
    """
    return _open(settings, "data.text_field", settings.text_field, "Text")


def open_labels(settings: Any) -> PreparedSound:
    """Open the recordings of the set `data.name` with their labels, like `open_transcripts`."""
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
    return PreparedSound(settings.source, found, sound, target, held_out, classes, tuple(warnings))


def _open_records(found: PreparedSet, split: str) -> Sequence[bytes]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = sorted(map(str, found.folder.glob(f"*-{split}.array_record-*-of-*")))
    records = ArrayRecordDataSource(files) if files else ()
    if len(records) != (expected := found.rows(split)):
        raise UsageError(
            f"split {split} of {found.folder} has {len(records):,} of its {expected:,} recordings: "
            "prepare the set again"
        )
    return records


def _rate(feature: Mapping[str, Any]) -> int:
    """Return the sample rate in Hz; 0 if the set does not say."""
    return int(feature.get("sampleRate", 0))


def _decode(
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
    return to_rate(samples.astype(np.float32), _rate(feature) or sample_rate, sample_rate)


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
