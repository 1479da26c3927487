"""Reads the samples of a tar file, in which the files of a sample follow each other.

The key of a sample is the path of its files up to the first dot of their names; what follows this
dot is the field that a file holds. So 000123.jpg and 000123.cls are the fields `jpg` and `cls` of
the sample 000123. A compressed file, 000123.txt.gz, is the field `txt` too. Nothing is unpacked to
the disk.
"""

import itertools
import operator
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from configs.errors import UsageError, blaming
from data.progress import Reached, unwatched
from data.sources.files import is_hidden
from data.sources.json_rows import loads
from data.sources.opening import decompressed, open_bytes, refuse_other_files
from data.sources.suffixes import without_compression
from data.sources.values import decode, kind_of, leaves

_METADATA = re.compile(r"__[^/]*__(/|$)")  # begins the names of files that describe a shard
_JSON = re.compile(r"((?:.+?\.)?json)\.(.+)")  # a field inside of a JSON object, such as json.label
_NO_FIELD = "no field follows a dot in its name"
_NO_FILE = "it is no regular file"
_LINKS = {
    tarfile.LNKTYPE: ("hard", "tar --hard-dereference packs the file that it leads to"),
    tarfile.SYMTYPE: ("symbolic", "tar --dereference packs the file that it leads to"),
}
"""The kinds of links, and how a tar file is made without them."""


class LacksField(Exception):
    """A sample has no `field`."""

    def __init__(self, field: str):
        super().__init__(field)
        self.field = field


class _File(NamedTuple):
    """A file of a sample.

    size: in bytes.
    content: None if it was not read.
    is_compressed: whether its name says so.
    link: if it is no file but a link, what leads where, and the remedy.
    """

    size: int
    content: bytes | None
    is_compressed: bool
    link: str


@dataclass(frozen=True)
class Sample:
    """A sample: its key, its location for errors, and by field its files and its links."""

    key: str
    where: str
    files: Mapping[str, _File]
    links: Mapping[str, _File]
    invalid_utf8: str

    def row(self, fields: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of `fields`. Raises LacksField, or UsageError if one is wrong."""
        return {field: self._value(field) for field in fields}

    def names(self) -> list[str]:
        """Return the names of its fields, with those inside of JSON that can be read."""
        there = dict[str, Any](self.files)
        for name in filter(_is_json, self.files):
            try:
                there[name] = self._json(name)
            except UsageError:
                continue
        return [name for name, _ in leaves(there)]

    def link_of(self, field: str) -> str | None:
        """Return what is told of the link that the sample has in place of a field, if it has."""
        return next((self.links[name].link for name in files_of(field) if name in self.links), None)

    def _value(self, field: str) -> Any:
        for name in field.split(";"):
            if (whole := _archived(name)) in self.files:
                return self._content(whole)
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
        raise LacksField(field)

    def _content(self, name: str) -> bytes:
        file = self.files[name]
        content = file.content or b""
        where = f"{self.where}: field {name!r}"
        return decompressed(where, content) if file.is_compressed else content

    def _json(self, name: str) -> Any:
        where = f"{self.where}: field {name!r}"
        text = decode(self._content(name), self.invalid_utf8, where)
        try:
            return loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is no JSON: {error}") from None


def files_of(field: str) -> list[str]:
    """Return the fields of an archive that provide `field`: of `json.label` this is `json`."""
    names = field.split(";")
    return [_archived(inside[1] if (inside := _JSON.fullmatch(one)) else one) for one in names]


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


class Archive:
    """A tar file, which may be compressed. After all was read, these are known:

    left_out: for each reason to leave out files, their number and the name of the first.
    is_empty: whether nothing is in it.
    is_ended: whether it has a mark at its end.
    """

    def __init__(self, path: Path, reached: Reached = unwatched):
        self.path, self.left_out = path, dict[str, tuple[int, str]]()
        self.is_empty = self.is_ended = False
        self._reached = reached

    def samples(self, fields: Mapping[str, str], invalid_utf8: str) -> Iterator[Sample]:
        """Yield the samples in order, with the contents of the files that `fields` need. Raises
        UsageError if this is no tar file or damaged."""
        needed = {name for field in fields for name in files_of(field)}
        files = self._files(lambda name: bool(fields) and (name in needed or _is_json(name)))
        for key, of in itertools.groupby(files, operator.itemgetter(0)):
            found, links = dict[str, _File](), dict[str, _File]()
            for _, field, file in of:
                if before := found.get(field) or links.get(field):
                    is_mixed = before.is_compressed != file.is_compressed
                    once = ", once compressed" if is_mixed else ""
                    raise UsageError(f"{self.path} has {key}.{field} twice{once}")
                (links if file.link else found)[field] = file
            if found:
                yield Sample(key, f"{self.path}, sample {key}", found, links, invalid_utf8)

    def _files(self, is_read: Callable[[str], bool]) -> Iterator[tuple[str, str, _File]]:
        """Yield the key, the field and the content of each file of a sample."""
        place = ""
        with blaming(str(self.path)), open_bytes(self.path, self._reached) as stream:
            head = stream.peek(tarfile.BLOCKSIZE)
            if not head:
                raise UsageError(f"{self.path} is empty: write it again, or delete it")
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
                        key, field = named
                        name, content = without_compression(field), None
                        if is_read(name) and (file := _opened(archive, member)):
                            content = file.read()
                        link = _link(member)
                        yield key, name, _File(member.size, content, name != field, link)
                    archive.members.clear()  # type: ignore[attr-defined]  # It would grow.
                self.is_empty, self.is_ended = not place, archive.offset > end
            except tarfile.TarError as error:
                if not place and head[257:262] != b"ustar":
                    refuse_other_files(self.path, head)
                    raise UsageError(f"{self.path} is no tar file: {error}") from None
                raise UsageError(f"{self.path} is damaged or cut off{place}: {error}") from None
            except UsageError as error:
                raise UsageError(f"{error}{place}") from None

    def _named(self, member: tarfile.TarInfo) -> tuple[str, str] | None:
        """Return the key and the field of a file, or of a link; None if it is no part of a
        sample."""
        path = posixpath.normpath(f"/{member.name}").lstrip("/")
        if member.isdir() or _METADATA.match(path) or any(map(is_hidden, path.split("/"))):
            return None
        folder, name = posixpath.split(path)
        stem, _, field = name.partition(".")
        if not member.isreg():
            kind, remedy = _LINKS.get(member.type, ("", ""))
            self._leave_out(path, f"it is a {kind} link ({remedy})" if kind else _NO_FILE)
        elif not field:
            self._leave_out(path, _NO_FIELD)
        is_part = field and (member.isreg() or member.type in _LINKS)
        return (posixpath.join(folder, stem), field.lower()) if is_part else None

    def _leave_out(self, path: str, why: str) -> None:
        count, first = self.left_out.get(why, (0, path))
        self.left_out[why] = count + 1, first


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """Return a file's content as a stream; None for a link, which leads elsewhere."""
    return archive.extractfile(member) if member.isreg() else None


def _link(member: tarfile.TarInfo) -> str:
    """Return what is told of a link; an empty text for a file."""
    if member.type not in _LINKS:
        return ""
    kind, remedy = _LINKS[member.type]
    return f"its {member.name} is a {kind} link to {member.linkname}, which is not read: {remedy}"


def _archived(name: str) -> str:
    """Return the name that a field has in an archive."""
    return without_compression(name.lower())


def _is_json(name: str) -> bool:
    return name == "json" or name.endswith(".json")
