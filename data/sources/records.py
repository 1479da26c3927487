"""Records with a field of text, each a document: JSON lines and Parquet."""

import difflib
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from configs import UsageError
from data.remembered import Remembered
from data.sources.documents import PIECE_CHARACTERS, pieces, text_features
from data.sources.files import SPLITS, find_files
from data.sources.source import held_out_mask

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class Table(Protocol):
    """Records in their order."""

    name: str

    @property
    def rows(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes of its texts, or a little more."""
        ...

    def texts(self) -> Iterator[str]:
        """The text of each record. Raises UsageError where one has none."""
        ...


@dataclass(frozen=True)
class Records:
    """A source of text whose documents are the records of `tables`, by their split.

    facts: all that decides what the records are, as JSON. held_out: share of the training part's
    records that is held out for validation, by a hash of each one's table and place.
    """

    name: str
    tables: Mapping[str, Sequence[Table]]
    facts: Mapping[str, Any]
    held_out: float

    @cached_property
    def splits(self) -> dict[str, int]:
        most = {
            split: sum(table.rows + table.size // PIECE_CHARACTERS for table in tables)
            for split, tables in self.tables.items()
        }
        if self.held_out:
            share = self._mask.mean()
            most |= {
                "train": int(most["train"] * (1 - share)) + 1,
                "validation": int(most["train"] * share) + 1,
            }
        return {split: most[split] for split in SPLITS if split in most}

    def contents(self) -> dict[str, Any]:
        return {"piece_characters": PIECE_CHARACTERS, "held_out": self.held_out, **self.facts}

    def features(self) -> dict[str, Any]:
        return text_features()

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        wanted = split == "validation"
        masked = self.held_out and split in ("train", "validation")
        number = 0
        for table in self.tables["train" if masked else split]:
            for row, text in enumerate(table.texts()):
                if not masked or self._mask[number] == wanted:
                    for piece, part in enumerate(pieces([text])):
                        yield {"document": f"{table.name}:{row}", "piece": piece, "text": part}
                number += 1

    @cached_property
    def _mask(self) -> NDArray[np.bool_]:
        """Which records of the training part are held out."""
        tables = self.tables["train"]
        mask = held_out_mask(
            (f"{table.name}:{row}" for table in tables for row in range(table.rows)), self.held_out
        )
        if not mask.any() or mask.all():
            raise UsageError(
                f"{tables[0].name}: of {len(mask)} records nothing is left for "
                f"{'training' if mask.any() else 'validation'}. Give more, or "
                "data.validation_fraction=0 for no validation"
            )
        return mask


def open_source(settings: Any) -> Records:
    """The files at `data.path`, found and split as those of `text_files` are.

    Without a validation part `data.validation_fraction` of the records is held out. The first
    record of each file is looked at, so that a wrong name is told at once. Raises UsageError.
    """
    found = find_files(settings.path, lambda path: path.name.endswith(SUFFIXES))
    tables, facts = {}, {}
    for split, (paths, root) in found.items():
        if not paths or not paths[0].name.endswith(SUFFIXES):
            what = f"{settings.path} holds no file for {split}" if not paths else paths[0]
            raise UsageError(f"{what}: records are read from {', '.join(SUFFIXES)}")
        tables[split] = [
            _table(path, path.relative_to(root).as_posix(), settings) for path in paths
        ]
        with Remembered(settings, "records", str(root.absolute()), split) as remembered:
            facts[split] = [
                [table.name, remembered.of(table.path, _hash)] for table in tables[split]
            ]
        if not [table for table in tables[split] if next(table.texts(), None) is not None]:
            raise UsageError(f"{settings.path} holds no record for {split}")
    held_out = 0.0 if "validation" in tables else settings.validation_fraction
    decided = {"files": facts, "field": settings.text_field, "invalid": settings.invalid_utf8}
    return Records("records", tables, decided, held_out)


def _table(path: Path, name: str, settings: Any) -> Table:
    kind = Parquet if path.suffix == ".parquet" else JSONLines
    return kind(path, name, settings.text_field, settings.invalid_utf8)


@dataclass(frozen=True)
class JSONLines:
    """A file with a JSON object a line; blank lines are none. With .gz it is compressed."""

    path: Path
    name: str
    field: str
    invalid_utf8: str

    @cached_property
    def _totals(self) -> tuple[int, int]:
        rows = size = 0
        for _, line in self._lines():
            rows, size = rows + 1, size + len(line)
        return rows, size

    @property
    def rows(self) -> int:
        return self._totals[0]

    @property
    def size(self) -> int:
        return self._totals[1]

    def texts(self) -> Iterator[str]:
        for number, line in self._lines():
            where = f"{self.path}, line {number}"
            try:
                record = json.loads(decode(line, self.invalid_utf8, where).removeprefix("\ufeff"))
            except json.JSONDecodeError as error:
                what = error.msg.removesuffix(" at").removesuffix(" starting")
                raise UsageError(f"{where} is no JSON: {what}, column {error.colno}") from None
            except RecursionError:
                raise UsageError(f"{where} is no JSON: nested too deeply") from None
            if not isinstance(record, dict):
                raise UsageError(f"{where} holds {_kind(record)}, not an object with fields")
            if self.field not in record:
                raise no_such_field(where, self.field, record)
            text = record[self.field]
            if not isinstance(text, str):
                texts = [name for name, value in record.items() if isinstance(value, str)]
                raise no_text(where, self.field, _kind(text), texts)
            if not text.isascii():  # JSON may spell half a character: \ud800
                text = decode(text.encode("utf-8", "surrogatepass"), self.invalid_utf8, where)
            yield text

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, and their numbers from 1."""
        number = 0
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield number, line.rstrip(b"\r\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError(f"{self.path} is damaged after line {number}: {error}") from None
        except OSError as error:
            raise UsageError(f"{self.path} can't be read: {error.strerror}") from None


@dataclass(frozen=True)
class Parquet:
    """A Parquet file, of which one column is read, a few rows at a time."""

    path: Path
    name: str
    field: str
    invalid_utf8: str

    @cached_property
    def rows(self) -> int:
        return self._open().metadata.num_rows

    @cached_property
    def size(self) -> int:
        metadata = self._open().metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        columns = [group.column(n) for group in groups for n in range(group.num_columns)]
        return sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self.field)

    def texts(self) -> Iterator[str]:
        import pyarrow

        file, row = self._open(), 0
        schema = file.schema_arrow
        texts = [field.name for field in schema if _is_text(field.type)]
        if self.field not in schema.names:
            raise no_such_field(str(self.path), self.field, schema.names)
        if self.field not in texts:
            kind = str(schema.field(self.field).type)
            raise no_text(str(self.path), self.field, kind, texts)
        try:
            for batch in file.iter_batches(batch_size=1024, columns=[self.field]):
                column = batch.column(0).cast(pyarrow.string()).cast(pyarrow.binary())
                for content in column.to_pylist():
                    where = f"{self.path}, row {row}"
                    if content is None:
                        raise no_text(where, self.field, "null", ())
                    yield decode(content, self.invalid_utf8, where)
                    row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{self.path} is damaged after row {row}: {_line(error)}") from None

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{self.path} is no whole Parquet file: {_line(error)}") from None


def no_such_field(where: str, field: str, there: Iterable[str]) -> UsageError:
    """The error for a record without the field that is asked for."""
    near = difflib.get_close_matches(field, there, n=1, cutoff=0.5)
    hint = f"did you mean data.text_field={near[0]}?" if near else "set data.text_field"
    return UsageError(f"{where} has no field {field!r}, but {', '.join(there) or 'none'}: {hint}")


def no_text(where: str, field: str, kind: str, texts: Iterable[str]) -> UsageError:
    """The error for a field that holds something else than text."""
    others = f": text is in {', '.join(texts)}" if texts else ""
    return UsageError(f"{where}: field {field!r} holds {kind}, not text{others}")


def decode(content: bytes, invalid_utf8: str, where: str) -> str:
    """The text of `content`; `where` it is, for the error. invalid_utf8: `data.invalid_utf8`."""
    try:
        return content.decode("utf-8", {"error": "strict", "replace": "replace"}[invalid_utf8])
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8 text: byte 0x{content[error.start]:02x}. Convert the file, or "
            "set data.invalid_utf8=replace"
        ) from None


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
