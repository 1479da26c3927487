"""Reads WebDataset shards: tar files in which the files of a sample follow each other.

The key of a sample is the path of its files up to the first dot of their names; what follows this
dot is the field that a file holds. So 000123.jpg and 000123.cls are the fields `jpg` and `cls` of
the sample 000123. Nothing is unpacked to the disk.
"""

import contextlib
import itertools
import operator
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from configs.errors import UsageError, blaming
from data.file_stat_cache import FileStatCache
from data.sources.files import file_sha256, find_files, is_hidden, name_below
from data.sources.json_rows import loads
from data.sources.opening import COMPRESSED, compressible, open_bytes, refuse_other_files
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.splits import listed
from data.sources.tables import no_such_field
from data.sources.values import decode, kind_of, leaves, listed_names

SUFFIXES = (*compressible(".tar"), ".tgz", ".tbz2", ".txz", ".tzst")

_METADATA = re.compile(r"__[^/]*__(/|$)")  # begins the names of files that describe a shard
_JSON = re.compile(r"((?:.+?\.)?json)\.(.+)")  # a field inside of a JSON object, such as json.label
_NO_FIELD = "no field follows a dot in its name"
_NO_FILE = "it is no regular file (tar --dereference packs the files that links lead to)"


@dataclass(frozen=True)
class Contents:
    """What a shard contains, apart from the content of its files. All values can be stored as JSON.

    sha256: the hash of the shard.
    keys: the keys of the samples.
    labels: the labels of the samples, if the view numbers the classes; empty if one is wrong.
    sizes: the number of bytes of all files of each field.
    edges: the fields of the first and of the last sample.
    left_out: for each reason to leave out files, their number and the name of the first.
    is_ended: whether the archive has a mark at its end.
    """

    sha256: str
    keys: Sequence[str]
    labels: Sequence[str]
    sizes: Mapping[str, int]
    edges: Sequence[Sequence[str]]
    left_out: Mapping[str, tuple[int, str]]
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
        for sample in _Archive(self.path).samples(fields, self.view.invalid_utf8):
            yield sample.where, sample.row(fields)


def open_shards(settings: Any, view: View) -> Opened:
    """Open the shards at `data.path`, as rows for `view`: a tar file, those of a folder, or those
    that match a pattern.

    Files are found and assigned to splits by `files.find_files`. Each shard is read to its end,
    once: what it contains is kept in the file stat cache. Raises UsageError if there is no shard,
    if one is wrong, or if a split has no sample.
    """
    layout, root = find_files(settings, lambda path: path.name.lower().endswith(SUFFIXES))
    if not layout.splits["train"]:
        raise UsageError(
            f"{settings.path} holds no shard of WebDataset: .tar, also with {', '.join(COMPRESSED)}"
        )
    what = ("shards", view.invalid_utf8, *_labels(view), str(root.absolute()))
    shards = dict[str, list[Shard]]()
    for split, paths in layout.splits.items():
        with FileStatCache(settings, *what, split) as file_stat_cache:
            contents = [file_stat_cache.of(path, lambda path: _look(path, view)) for path in paths]
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


def files_of(field: str) -> list[str]:
    """Return the fields of an archive that provide `field`: of `json.label` this is `json`."""
    names = field.split(";")
    return [(inside[1] if (inside := _JSON.fullmatch(one)) else one).lower() for one in names]


class _File(NamedTuple):
    """A file of a sample. size: in bytes. content: None if it was not read."""

    size: int
    content: bytes | None


@dataclass(frozen=True)
class _Sample:
    """A sample: its key, its location for errors, and its files by field."""

    key: str
    where: str
    files: Mapping[str, _File]
    invalid_utf8: str

    def row(self, fields: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of `fields`. Raises UsageError if it lacks one."""
        return {field: self._value(field, fields) for field in fields}

    def _value(self, field: str, fields: Mapping[str, str]) -> Any:
        for name in field.split(";"):
            if name.lower() in self.files:
                return self.files[name.lower()].content
            inside = _JSON.fullmatch(name)
            if inside and (outer := inside[1].lower()) in self.files:
                record = self._json(outer)
                if not isinstance(record, dict):
                    raise UsageError(
                        f"{self.where}: field {outer!r} holds {kind_of(record)}, not an object"
                    )
                found = dict(leaves(record)) | record
                if inside[2] in found:
                    return found[inside[2]]
        there = dict[str, Any](self.files)
        for name in filter(_is_json, self.files):
            with contextlib.suppress(UsageError):
                there[name] = self._json(name)
        names = [name for name, _ in leaves(there)]
        raise no_such_field(self.where, field, names, fields[field], fields)

    def _json(self, name: str) -> Any:
        where = f"{self.where}: field {name!r}"
        text = decode(self.files[name].content or b"", self.invalid_utf8, where)
        try:
            return loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is no JSON: {error}") from None


class _Header(tarfile.TarInfo):
    """The header of a file. A damaged one is an error, and not the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):
                raise tarfile.ReadError(str(error)) from None
            raise


class _Archive:
    """A tar file, which may be compressed. `left_out` and `is_ended`, as in `Contents`, are known
    when all was read."""

    def __init__(self, path: Path):
        self.path, self.left_out, self.is_ended = path, dict[str, tuple[int, str]](), False

    def samples(self, fields: Mapping[str, str], invalid_utf8: str) -> Iterator[_Sample]:
        """Yield the samples in order, with the contents of the files that `fields` need. Raises
        UsageError if this is no tar file or damaged."""
        needed = {name.lower() for field in fields for name in field.split(";")}
        files = self._files(lambda name: bool(fields) and (name in needed or _is_json(name)))
        for key, of in itertools.groupby(files, operator.itemgetter(0)):
            found = dict[str, _File]()
            for _, field, file in of:
                if field in found:
                    raise UsageError(f"{self.path} has {key}.{field} twice")
                found[field] = file
            yield _Sample(key, f"{self.path}, sample {key}", found, invalid_utf8)

    def _files(self, is_read: Callable[[str], bool]) -> Iterator[tuple[str, str, _File]]:
        """Yield the key, the field and the content of each file of a sample."""
        place = ""
        with blaming(str(self.path)), open_bytes(self.path) as stream:
            head = stream.peek(tarfile.BLOCKSIZE)
            try:
                archive = tarfile.open(  # noqa: SIM115
                    fileobj=stream, mode="r:" if stream.seekable() else "r|", tarinfo=_Header,
                    ignore_zeros=True,  # reads on where archives were joined
                    encoding="utf-8", errors="backslashreplace",
                )  # fmt: skip
                end = archive.offset
                while (member := archive.next()) is not None:
                    place = f", at or after its file {member.name} at byte {member.offset:,}"
                    end = archive.offset
                    if named := self._named(member):
                        content = None
                        if is_read(named[1]) and (file := archive.extractfile(member)):
                            content = file.read()
                        yield *named, _File(member.size, content)
                    archive.members.clear()  # type: ignore[attr-defined]  # It would grow.
                self.is_ended = archive.offset > end
            except tarfile.TarError as error:
                if not place and head[257:262] != b"ustar":
                    refuse_other_files(self.path, head)
                    raise UsageError(f"{self.path} is no tar file: {error}") from None
                raise UsageError(f"{self.path} is damaged or cut off{place}: {error}") from None
            except UsageError as error:
                raise UsageError(f"{error}{place}") from None

    def _named(self, member: tarfile.TarInfo) -> tuple[str, str] | None:
        """Return the key and the field of a file; None if it is no file of a sample."""
        path = posixpath.normpath(f"/{member.name}").lstrip("/")
        if member.isdir() or _METADATA.match(path) or any(map(is_hidden, path.split("/"))):
            return None
        folder, name = posixpath.split(path)
        stem, _, field = name.partition(".")
        if member.isreg() and field:
            return posixpath.join(folder, stem), field.lower()
        why = _NO_FIELD if member.isreg() else _NO_FILE
        count, first = self.left_out.get(why, (0, path))
        self.left_out[why] = count + 1, first
        return None


def _labels(view: View) -> Mapping[str, str]:
    """Return the field with the labels, if the view needs all labels to number the classes."""
    return view.label_fields if view.numbers_classes else {}


def _look(path: Path, view: View) -> dict[str, Any]:
    """Return the `Contents` of a shard, as JSON values."""
    archive, samples = _Archive(path), dict[str, list[str]]()
    sizes, labels = Counter[str](), list[str]()
    for sample in archive.samples(_labels(view), view.invalid_utf8):
        if sample.key in samples:
            raise UsageError(
                f"{path} has files of the sample {sample.key} in two places: the files of a sample "
                "must follow each other, as those of a folder do with tar --sort=name"
            )
        samples[sample.key] = [*sample.files]
        sizes.update({field: file.size for field, file in sample.files.items()})
        if view.numbers_classes:
            with contextlib.suppress(UsageError):  # it is raised when labels are read
                labels.append(view.label_of(sample.where, sample.row(_labels(view))))
    fields = [*samples.values()] or [[]]
    contents = Contents(
        sha256=file_sha256(path),
        keys=[*samples],
        labels=labels if len(labels) == len(samples) else (),
        sizes=dict(sizes),
        edges=(fields[0], fields[-1]),
        left_out=archive.left_out,
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
    """Yield a warning for each kind of files that are not read, and for archives without an end."""
    left_out: dict[str, list[str]] = {}
    for shard in shards:
        for why, (count, first) in shard.contents.left_out.items():
            left_out.setdefault(why, []).extend([f"{shard.path}:{first}"] * count)
    for why, files in left_out.items():
        are = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
        yield f"{are} left out, such as {files[0]}: {why}"
    if cut := [str(shard.path) for shard in shards if not shard.contents.is_ended]:
        has = "has no mark at its" if len(cut) == 1 else "have no mark at their"
        yield f"{listed(cut)} {has} end: were all samples written?"
    read = {name for field in fields for name in files_of(field)}
    if unread := dict.fromkeys(
        name for shard in shards for name in shard.contents.sizes if name not in read
    ):
        yield f"fields that are not read: {listed_names(unread)}"


def _is_json(name: str) -> bool:
    return name == "json" or name.endswith(".json")
