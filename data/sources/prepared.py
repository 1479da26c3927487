"""Reads data sets that TensorFlow Datasets prepared, from their ArrayRecord files, without
TensorFlow."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UsageError
from data.cache import digest
from data.progress import Progress
from data.sources.files import is_hidden
from data.sources.prepared_sound import decode_feature, rate_of
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.splits import SPLITS
from data.sources.tables import no_such_field
from data.sources.values import no_text

_KINDS = {
    "data.text_field": "Text",
    "data.source_field": "Text",
    "data.target_field": "Text",
    "data.image_field": "Image",
    "data.sound_field": "Audio",
    "data.label_field": "ClassLabel",
}
"""The class of feature that a setting names."""

_AT_ONCE, _BYTES_AT_ONCE = 256, 2**22  # the most records, and bytes, that are read together


@dataclass(frozen=True)
class PreparedRows:
    """The records of a split as rows.

    found: the data set.
    name: the split.
    things: the noun for records in messages.
    """

    found: "PreparedSet"
    name: str
    things: str

    @property
    def rows(self) -> int:
        """The number of records."""
        return _rows(self.found.splits[self.name])

    @property
    def size(self) -> int:
        """The number of bytes of the split, according to dataset_info.json."""
        return int(self.found.splits[self.name].get("numBytes", 0))

    def name_of(self, row: int) -> str:
        """Return the name of a record: the split and the number."""
        return f"{self.name} {row}"

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted records. fields: the names of the features."""
        numbers = np.arange(self.rows) if wanted is None else np.flatnonzero(wanted)
        most = int(min(_AT_ONCE, max(1, _BYTES_AT_ONCE * self.rows // max(self.size, 1))))
        for start in range(0, len(numbers), most):
            block = numbers[start : start + most].tolist()
            try:
                rows = [self._row(content, fields) for content in self._records.__getitems__(block)]
            except UsageError:
                raise
            except Exception as error:  # ArrayRecord and protobuf raise their own errors
                raise UsageError(
                    f"split {self.name} of {self.found.folder} can't be read: "
                    f"{self._first_unreadable(block, fields)}{error}"
                ) from None
            for number, row in zip(block, rows, strict=True):
                yield f"{self.found.folder}, {self.name_of(number)}", row

    def _first_unreadable(self, numbers: Sequence[int], fields: Mapping[str, str]) -> str:
        """Return "record 7: ", the first of `numbers` that can't be read; "" if each can be."""
        for number in numbers:
            try:
                self._row(self._records[number], fields)
            except Exception:
                return f"record {number}: "
        return ""

    def _row(self, content: bytes, fields: Mapping[str, str]) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_pb2

        features = tf_example_pb2.Example.FromString(content).features.feature
        return {field: self._value(field, features[field]) for field in fields}

    def _value(self, field: str, feature: Any) -> Any:
        kind = self.found.kinds[field]
        if kind == "ClassLabel":
            return feature.int64_list.value[0]
        if kind == "Audio":
            return partial(decode_feature, feature, self.found.features[field]["audio"])
        return feature.bytes_list.value[0]

    @cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        folder = self.found.folder
        files = sorted(map(str, folder.glob(f"*-{self.name}.array_record-*-of-*")))
        records = ArrayRecordDataSource(files) if files else ()
        if len(records) != self.rows:
            raise UsageError(
                f"split {self.name} of {folder} has {len(records):,} of its {self.rows:,} "
                f"{self.things}{_missing(files)}: prepare the set again"
            )
        return records


def _missing(files: Sequence[str]) -> str:
    """Return "; FILE is missing" of the first file that `files` lack, as their numbers say; "" if
    they lack none. (ArrayRecord takes a file that is missing for one without records.)"""
    if not files or (last := re.fullmatch(r"(.*-)(\d+)-of-(\d+)", files[-1])) is None:
        return ""
    before, digits, count = last[1], len(last[2]), last[3]
    names = (f"{before}{number:0{digits}}-of-{count}" for number in range(int(count)))
    return next((f"; {name} is missing" for name in names if name not in files), "")


@dataclass(frozen=True)
class PreparedSet:
    """A data set prepared by TensorFlow Datasets.

    where: the set's name in error messages.
    info: the content of dataset_info.json.
    features: the description of each feature, by name, from features.json.
    """

    folder: Path
    where: str
    info: Mapping[str, Any]
    features: Mapping[str, Mapping[str, Any]]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The class of each feature, such as Text, Image or ClassLabel."""
        names = {name: one["pythonClassName"] for name, one in self.features.items()}
        return {name: full.rpartition(".")[2] for name, full in names.items()}

    @cached_property
    def splits(self) -> dict[str, Mapping[str, Any]]:
        there = {split["name"]: split for split in self.info.get("splits", ()) if _rows(split)}
        if "train" not in there:
            what = f"it has {', '.join(there)}" if there else "it has no examples at all"
            raise UsageError(f"{self.where} has no examples in a split train to learn from: {what}")
        return {name: there[name] for name in SPLITS if name in there}

    def class_names(self, label: str) -> tuple[str, ...]:
        """Return the class names of the feature `label`; numbers if the set has no names."""
        path = self.folder / f"{label}.labels.txt"
        if path.exists():
            return tuple(path.read_text(encoding="utf-8").splitlines())
        feature = self.features[label].get("classLabel", {})
        return tuple(map(str, range(int(feature.get("numClasses", 0)))))

    def check(self, fields: Mapping[str, str]) -> None:
        """Raise UsageError if one of `fields` is missing, or of another kind than the setting that
        names it asks for."""
        for name, setting in fields.items():
            kind = _KINDS[setting]
            if name not in self.kinds:
                taken = [one for one in fields if one != name]
                raise no_such_field(self.where, name, self.kinds, setting, taken)
            if self.kinds[name] == kind:
                continue
            others = [other for other, of in self.kinds.items() if of == kind]
            if kind == "Text":
                raise no_text(self.where, name, f"a {self.kinds[name]}", others)
            there = f"give {setting}={' or '.join(others)}" if others else f"it has no {kind}"
            raise UsageError(
                f"{self.where}: feature {name!r} is a {self.kinds[name]}, not a {kind}: {there}"
            )

    def digest(self) -> str:
        """Return a hash of the set's description and file sizes, but not of the files' contents."""
        paths = [path for path in sorted(self.folder.iterdir()) if path.is_file()]
        files = {path.name: path.stat().st_size for path in paths}
        return digest([self.info, {"featuresDict": {"features": self.features}}, files])


def open_set(settings: Any) -> PreparedSet:
    """Return the set `data.name` under `data.data_dir`.

    Raises UsageError if the set is missing or not in ArrayRecord files; the message says how to
    prepare it.
    """
    folder = _find(settings.name, data_dir(settings))
    info, features = _read(folder / "dataset_info.json"), _read(folder / "features.json")
    form = info.get("fileFormat", "tfrecord")
    if form != "array_record":
        raise UsageError(
            f"data.name={settings.name} is prepared in {form} files, which need TensorFlow: "
            f"prepare it as ArrayRecord, {_command(settings.name)}"
        )
    fields = features.get("featuresDict", {}).get("features", {})
    if "translation" in features:  # its only features: one text per language
        text = {"pythonClassName": "Text"}
        fields = dict.fromkeys(features["translation"]["languages"], text)
    return PreparedSet(folder, f"data.name={settings.name}", info, fields)


def open_prepared(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the set `data.name`, with its splits train, validation and test. Nothing slow is read.

    Raises UsageError if the set or one of its features is missing, or if a feature has another
    type.
    """
    found = open_set(settings)
    found.check(view.fields)
    classes, channels, warnings = None, 3, list[str]()
    for name in view.fields:
        about, kind = found.features[name], found.kinds[name]
        if kind == "ClassLabel":
            classes = found.class_names(name)
        if kind == "Image":
            dimensions = about.get("image", {}).get("shape", {}).get("dimensions", ())
            channels = 1 if [*dimensions][-1:] == ["1"] else 3
        if kind == "Audio" and not rate_of(about["audio"]):
            warnings.append(
                f"{found.where} does not say at what rate {name} was recorded: it is taken for "
                f"data.sample_rate={settings.sample_rate}"
            )
    return Opened(
        {split: [PreparedRows(found, split, view.things)] for split in found.splits},
        {"info": found.digest()},
        classes=classes,
        channels=channels,
        warnings=tuple(warnings),
    )


def _rows(split: Mapping[str, Any]) -> int:
    return sum(map(int, split.get("shardLengths", ())))


def data_dir(settings: Any) -> Path:
    """Return the folder of prepared sets: `data.data_dir`, or the default of TensorFlow
    Datasets."""
    folder = settings.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(folder).expanduser()


def _find(given: str, root: Path) -> Path:
    """Return the folder of the data set `given` below `root`. If `given` has no version, return the
    folder of the newest version."""
    parts = re.fullmatch(r"([\w.-]+)(?:/([\w.-]+))?(?::([\w.-]+))?", given)
    if parts is None:
        raise UsageError(f"data.name={given} must be NAME, NAME/CONFIG or NAME/CONFIG:VERSION")
    name, config, version = parts.groups()
    folder = _inside(root, name, given)
    if config is None and not _versions(folder):
        configs = [path.name for path in _folders(folder) if _versions(path)]
        if len(configs) != 1:
            if configs:
                raise UsageError(
                    f"data.name={given} comes in several: give one of "
                    f"{', '.join(f'{name}/{one}' for one in configs)}"
                )
            raise _nothing(given, folder)
        config = configs[0]
    if config is not None:
        folder = _inside(folder, config, given)
    versions = _versions(folder)
    if not versions:
        raise _nothing(given, folder)
    return _inside(folder, version or versions[-1], given)


def _inside(folder: Path, name: str, given: str) -> Path:
    """Return the folder `name` in `folder`; raise UsageError, with a suggestion, if it is
    missing."""
    there = [path.name for path in _folders(folder)]
    if name in there:
        return folder / name
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(there) or 'nothing'}."
    raise UsageError(
        f"data.name={given}: {folder} has no {name}; {hint} A set is prepared with "
        f"{_command(given)}; data.data_dir is the folder of all sets"
    )


def _nothing(given: str, folder: Path) -> UsageError:
    return UsageError(
        f"data.name={given}: {folder} holds no prepared set. Prepare it with {_command(given)}"
    )


def _command(given: str) -> str:
    return f"`tfds build --file_format=array_record {given}`"


def _folders(folder: Path) -> list[Path]:
    """Return the subfolders sorted by name, except hidden ones and downloads."""
    if not folder.is_dir():
        return []
    names = [p for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p.name)]
    return [p for p in names if p.name != "downloads"]


def _versions(folder: Path) -> list[str]:
    """Return the prepared versions of a set, the newest last."""
    found = [p.name for p in _folders(folder) if (p / "dataset_info.json").exists()]
    return sorted(found, key=lambda name: [int(n) if n.isdigit() else -1 for n in name.split(".")])


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read ({error}): prepare the set again") from None
