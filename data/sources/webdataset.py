"""Reads WebDataset shards: tar files of samples, as `tar_samples` reads them."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.progress import Progress, Reached, file_size
from data.sources.files import file_sha256, find_files, name_below
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.splits import listed
from data.sources.suffixes import ARCHIVES, COMPRESSED
from data.sources.tables import no_such_field, similar_fields
from data.sources.tar_samples import Archive, LacksField, Sample, files_of
from data.sources.values import listed_names


@dataclass(frozen=True)
class Contents:
    """What a shard contains, apart from the content of its files. All values can be stored as JSON.

    sha256: the hash of the shard.
    keys: the keys of the samples.
    labels: the labels of the samples, if the view numbers the classes; empty if one is wrong.
    sizes: the number of bytes of all files of each field.
    counts: the number of samples that have each field.
    edges: the fields of the first and of the last sample.
    left_out, is_empty, is_ended: as in `Archive`.
    """

    sha256: str
    keys: Sequence[str]
    labels: Sequence[str]
    sizes: Mapping[str, int]
    counts: Mapping[str, int]
    edges: Sequence[Sequence[str]]
    left_out: Mapping[str, tuple[int, str]]
    is_empty: bool
    is_ended: bool


@dataclass(frozen=True)
class Shard:
    """A shard as a table: a sample is a row, and its fields contain bytes.

    Fields are named as in the archive: `cls`, `left.png`. `json.label` is the field `label` of the
    JSON object in `json`. `jpg;png` is the first of these fields that a sample has.

    name: the path of the file below the folder of the data.
    """

    path: Path
    name: str
    view: View
    contents: Contents

    @property
    def rows(self) -> int:
        return len(self.contents.keys)

    @property
    def size(self) -> int:
        content = next(iter(self.view.fields))
        return sum(self.contents.sizes.get(name, 0) for name in files_of(content))

    def name_of(self, row: int) -> str:
        """Return the name of sample number `row` (from 0): the shard and the key."""
        return f"{self.name}:{self.contents.keys[row]}"

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        is_known = self.contents.labels and fields == self.view.label_fields
        rows = self._labels(fields) if is_known else self._samples(fields)
        return rows if wanted is None else itertools.compress(rows, wanted)

    def _labels(self, fields: Mapping[str, str]) -> Iterator[Row]:
        for row, label in enumerate(self.contents.labels):
            yield self.name_of(row), dict.fromkeys(fields, label)

    def _samples(self, fields: Mapping[str, str]) -> Iterator[Row]:
        samples = Archive(self.path).samples(fields, self.view.invalid_utf8)
        for number, sample in enumerate(samples):
            try:
                row = sample.row(fields)
            except LacksField as lacks:
                raise self._lacks(number, sample, lacks.field, fields) from None
            yield sample.where, row

    def _lacks(
        self, number: int, sample: Sample, field: str, fields: Mapping[str, str]
    ) -> UsageError:
        """Return the error for sample number `number`, which lacks one of `fields`. All before it
        have them."""
        if link := sample.link_of(field):
            return UsageError(f"{sample.where}: {link}")
        setting, there = fields[field], sample.names()
        what = f"{sample.where} has no field {field!r}, but {listed_names(there)}: "
        if dotted := self._dotted(sample, field):
            rest, _, ending = dotted.rpartition(".")
            name = f"{sample.key}.{dotted}"
            return UsageError(
                f"{what}a field begins after the first dot of a file's name, so that samples named "
                f"like {name} fall apart: put another sign for the dots inside of the name, "
                f"{sample.key}_{rest.replace('.', '_')}.{ending}"
            )
        missing = (name for name in files_of(field) if name not in sample.files)
        others = max([number, *(self.contents.counts.get(name, 0) for name in missing)])
        if not others:
            return no_such_field(sample.where, field, there, setting, fields)
        remedy = "complete this sample or leave it out"
        if number == self.rows - 1:
            remedy += " (it is the last one: was the shard cut off?)"
        if near := similar_fields(field, there, fields):
            remedy += f", or also read its {near[0]}, {setting}='{field};{near[0]}'"
        return UsageError(f"{what}{others:,} of {self.rows:,} samples here have it: {remedy}")

    def _dotted(self, sample: Sample, field: str) -> str | None:
        """Return a file of a sample that would be `field`, if its name had fewer dots; None if
        most samples have a field of this name, so that the dots belong to it."""
        counts = self.contents.counts
        ends = tuple(f".{name}" for name in files_of(field))
        alike = {name: count for name, count in counts.items() if name.endswith(ends)}
        rare = max(alike.values(), default=0) * 2 <= self.rows if self.rows > 1 else len(alike) > 2
        return next(filter(alike.get, sample.files), None) if rare else None


def open_shards(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the shards at `data.path`, as rows for `view`: a tar file, those of a folder, or those
    that match a pattern.

    Files are found and assigned to splits by `files.find_files`. Each shard is read to its end,
    once: what it contains is kept in the file stat cache. Raises UsageError if there is no shard,
    if one is wrong, or if a split has no sample.
    """
    layout, root = find_files(settings, lambda path: path.name.lower().endswith(ARCHIVES))
    if not layout.splits["train"]:
        raise UsageError(
            f"{settings.path} holds no shard of WebDataset: .tar, also with {', '.join(COMPRESSED)}"
        )
    what = ("samples of shards", view.invalid_utf8, *_labels(view), str(root.absolute()))
    shards = dict[str, list[Shard]]()
    for split, paths in layout.splits.items():
        with FileStatCache(settings, *what, split) as file_stat_cache:
            contents = file_stat_cache.of_all(
                paths,
                lambda path, reached: _look(path, view, reached),
                *(progress, f"opening {split}"),
            )
        shards[split] = [
            Shard(path, name_below(root, path), view, Contents(**of))
            for path, of in zip(paths, contents, strict=True)
        ]
        _check_edges(shards[split])
        if not [shard for shard in shards[split] if view.check(shard)]:
            raise UsageError(f"{settings.path} holds no sample for {split}")
    hashes = {
        split: [[shard.name, shard.contents.sha256] for shard in of] for split, of in shards.items()
    }
    told = _warnings([shard for of in shards.values() for shard in of], view.fields)
    return Opened(shards, {"files": hashes}, layout=layout, warnings=tuple(told))


def _labels(view: View) -> Mapping[str, str]:
    """Return the field with the labels, if the view needs all labels to number the classes."""
    return view.label_fields if view.numbers_classes else {}


def _look(path: Path, view: View, reached: Reached) -> dict[str, Any]:
    """Return the `Contents` of a shard, as JSON values. reached: as in `FileStatCache.of_all`."""
    half = file_size(path) / 2  # it is read twice
    archive = Archive(path, lambda position: reached(position // 2))
    samples, labels = dict[str, list[str]](), list[str]()
    sizes, counts = Counter[str](), Counter[str]()
    for sample in archive.samples(_labels(view), view.invalid_utf8):
        if sample.key in samples:
            raise UsageError(
                f"{path} has files of the sample {sample.key} in two places: the files of a "
                "sample, whose names are the same up to their first dot, must follow each other, "
                "as those of a folder do with tar --sort=name"
            )
        samples[sample.key] = [*sample.files]
        sizes.update({field: file.size for field, file in sample.files.items()})
        counts.update(sample.files.keys())
        if view.numbers_classes:
            with contextlib.suppress(UsageError, LacksField):  # it is raised when labels are read
                labels.append(view.label_of(sample.where, sample.row(_labels(view))))
    fields = [*samples.values()] or [[]]
    contents = Contents(
        sha256=file_sha256(path, lambda position: reached(int(half + position / 2))),
        keys=[*samples],
        labels=labels if len(labels) == len(samples) else (),
        sizes=dict(sizes),
        counts=dict(counts),
        edges=(fields[0], fields[-1]),
        left_out=archive.left_out,
        is_empty=archive.is_empty,
        is_ended=archive.is_ended,
    )
    return vars(contents)


def _check_edges(shards: Sequence[Shard]) -> None:
    """Raise UsageError if a sample begins in one of `shards`, and ends in the next."""
    for one, other in itertools.pairwise(shard for shard in shards if shard.rows):
        key, last, first = one.contents.keys[-1], one.contents.edges[1], other.contents.edges[0]
        if key == other.contents.keys[0] and not {*last} & {*first}:
            raise UsageError(
                f"the sample {key} is split over two shards: {one.path} has its {', '.join(last)}, "
                f"and {other.path} its {', '.join(first)}"
            )


def _warnings(shards: Sequence[Shard], fields: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each kind of files that are not read, and for archives that are empty or
    have no end."""
    left_out: dict[str, list[str]] = {}
    for shard in shards:
        for why, (count, first) in shard.contents.left_out.items():
            left_out.setdefault(why, []).extend([f"{shard.path}:{first}"] * count)
    for why, files in left_out.items():
        are = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
        yield f"{are} left out, such as {files[0]}: {why}"
    if empty := [str(shard.path) for shard in shards if shard.contents.is_empty]:
        yield f"{listed(empty)} {'is' if len(empty) == 1 else 'are'} empty: no file is in there"
    ended = [shard.contents.is_ended or shard.contents.is_empty for shard in shards]
    if cut := [str(one.path) for one, is_ended in zip(shards, ended, strict=True) if not is_ended]:
        has = "has no mark at its" if len(cut) == 1 else "have no mark at their"
        yield f"{listed(cut)} {has} end: were all samples written?"
    read = {name for field in fields for name in files_of(field)}
    if unread := dict.fromkeys(
        name for shard in shards for name in shard.contents.sizes if name not in read
    ):
        yield f"fields that are not read: {listed_names(unread)}"
