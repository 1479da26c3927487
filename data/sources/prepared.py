"""Reads data sets that TensorFlow Datasets prepared, without TensorFlow, and opens their texts."""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.cache import digest
from data.sources.files import is_hidden
from data.sources.records import PairRecords, TextRecords
from data.sources.source import MadeExamples, RawSplits, held_out_mask
from data.sources.splits import SPLITS
from data.sources.tables import decode, no_such_field, no_text

_AT_ONCE = 256


@dataclass(frozen=True)
class PreparedRecords:
    """The records of the split `name` of the data set in `folder`. Of the features, only those in
    `decoded` are decoded."""

    folder: Path
    name: str
    decoded: tuple[str, ...] = ()

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return the records with these `numbers`. Raises UsageError if they can't be read."""
        try:
            return self._records.__getitems__([*numbers])
        except (ValueError, RuntimeError, OSError, IndexError) as error:
            raise UsageError(
                f"split {self.name} of {self.folder} can't be read: {' '.join(str(error).split())}"
            ) from None

    @cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self.folder)
        others = {name: tfds.decode.SkipDecoding() for name in builder.info.features
                  if name not in self.decoded}  # fmt: skip
        return builder.as_data_source(self.name, decoders=others or None)


@dataclass(frozen=True)
class PreparedSplit:
    """The texts in the feature `field` of the split `name` of the data set in `folder`.

    rows: number of records in the split.
    size: number of bytes of the split, according to dataset_info.json.
    """

    folder: Path
    name: str
    rows: int
    size: int
    field: str
    invalid_utf8: str

    def name_of(self, row: int) -> str:
        """Return the name of a record for errors: the split and the number."""
        return f"{self.name} {row}"

    def texts(self) -> Iterator[str]:
        """Return an iterator over the text of each record."""
        return (text for (text,) in self._read(self.field))

    def pairs(self, target: str) -> Iterator[tuple[str, str]]:
        """Return an iterator over the two texts of each record: in `field` and in `target`."""
        return ((source, other) for source, other in self._read(self.field, target))

    def _read(self, *fields: str) -> Iterator[tuple[str, ...]]:
        records = PreparedRecords(self.folder, self.name, fields)
        for start in range(0, self.rows, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, self.rows))
            for row, one in enumerate(records.read(numbers), start):
                where = f"{self.folder}, {self.name} {row}"
                yield tuple(decode(one[field], self.invalid_utf8, where) for field in fields)


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

    def rows(self, split: str) -> int:
        return _rows(self.splits[split])

    def class_names(self, label: str) -> tuple[str, ...]:
        """Return the class names of the feature `label`; numbers if the set has no names."""
        path = self.folder / f"{label}.labels.txt"
        if path.exists():
            return tuple(path.read_text(encoding="utf-8").splitlines())
        feature = self.features[label].get("classLabel", {})
        return tuple(map(str, range(int(feature.get("numClasses", 0)))))

    def numbers(self, held_out: float) -> dict[str, NDArray[np.int64]]:
        """Return the record numbers of each split.

        held_out: share of the stored split train that becomes validation, chosen by a hash of each
        record's number. The records of validation keep their numbers in train.
        """
        numbers = {split: np.arange(self.rows(split)) for split in self.splits}
        if held_out:
            mask = held_out_mask((f"train:{row}" for row in numbers["train"]), held_out)
            numbers |= {"train": np.flatnonzero(~mask), "validation": np.flatnonzero(mask)}
        return {split: rows for split, rows in numbers.items() if len(rows)}

    def check(self, setting: str, name: str, kind: str) -> None:
        """Raise UsageError if the feature `name`, chosen by `setting`, is missing or not of
        `kind`."""
        if name not in self.kinds:
            raise no_such_field(self.where, name, self.kinds, setting)
        if self.kinds[name] != kind:
            others = [other for other, of in self.kinds.items() if of == kind]
            there = f"give {setting}={' or '.join(others)}" if others else f"it has no {kind}"
            raise UsageError(
                f"{self.where}: feature {name!r} is a {self.kinds[name]}, not a {kind}: {there}"
            )

    def digest(self) -> str:
        """Return a hash of the set's description and file sizes, but not of the files' contents."""
        paths = [path for path in sorted(self.folder.iterdir()) if path.is_file()]
        files = {path.name: path.stat().st_size for path in paths}
        return digest([self.info, {"featuresDict": {"features": self.features}}, files])


@dataclass(frozen=True)
class PreparedExamples:
    """A source of a set's raw examples, read from the set's own files. Subclasses define `reader`.

    content_field, target_field: the features with the input and the target of an example.
    held_out: share of the training split that is held out for validation, chosen by a hash of each
        record's number.
    """

    name: str
    found: PreparedSet
    content_field: str
    target_field: str
    held_out: float

    @cached_property
    def numbers(self) -> Mapping[str, NDArray[np.int64]]:
        """The record numbers of each split, as in `PreparedSet.numbers`."""
        return self.found.numbers(self.held_out)

    def source_key(self) -> dict[str, Any]:
        fields = [self.content_field, self.target_field]
        return {"info": self.found.digest(), "fields": fields, "held_out": self.held_out}

    def random_access(self) -> RawSplits:
        stored = {split: split if split in self.found.splits else "train" for split in self.numbers}
        return {
            split: MadeExamples(rows, self.reader(stored[split]))
            for split, rows in self.numbers.items()
        }

    def reader(self, stored: str) -> Callable[[int], dict[str, Any]]:
        """Return a function that reads a raw example, given its number in the split `stored`."""
        raise NotImplementedError


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


def open_source(settings: Any) -> TextRecords:
    """Open the set `data.name` as a source of text, from its splits train, validation and test.

    Without a validation split, `data.validation_fraction` of train is held out. Raises UsageError
    if the set or its feature `data.text_field` is missing, or if this feature is not text.
    """
    found, field = open_set(settings), settings.text_field
    _check_text(found, field, "data.text_field")
    decided = {"info": found.digest(), "field": field, "invalid": settings.invalid_utf8}
    return TextRecords.of(settings, _tables(found, field, settings), PreparedSplit.texts, decided)


def open_pairs(settings: Any) -> PairRecords:
    """Open the set `data.name` as a source of text pairs: two of its languages or text features.

    Splits and validation are as in `open_source`.
    """
    found, (source, target) = open_set(settings), settings.sides()
    _check_text(found, source, "data.source_field", taken=(target,))
    _check_text(found, target, "data.target_field", taken=(source,))
    sides = {"field": source, "target": target}
    decided = {"info": found.digest(), **sides, "invalid": settings.invalid_utf8}
    read = partial(PreparedSplit.pairs, target=target)
    return PairRecords.of(settings, _tables(found, source, settings), read, decided)


def _check_text(found: PreparedSet, field: str, setting: str, taken: Sequence[str] = ()) -> None:
    """Raise UsageError if the feature `field`, chosen by `setting`, is missing or not text."""
    if field not in found.kinds:
        raise no_such_field(found.where, field, found.kinds, setting, taken)
    if found.kinds[field] != "Text":
        texts = [name for name, kind in found.kinds.items() if kind == "Text"]
        raise no_text(found.where, field, f"a {found.kinds[field]}", texts)


def _tables(found: PreparedSet, field: str, settings: Any) -> dict[str, list[PreparedSplit]]:
    """Return a table of the texts in `field` for each split."""
    return {
        name: [
            PreparedSplit(
                found.folder,
                name,
                found.rows(name),
                int(split.get("numBytes", 0)),
                field,
                settings.invalid_utf8,
            )
        ]
        for name, split in found.splits.items()
    }


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
        f"{_command(given)}"
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
