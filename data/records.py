"""Writes ArrayRecord files, and reads many records at once in any order.

The records of a file have one dtype of fixed size, or the dtype `object`: bytes of varying length.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from numpy.typing import ArrayLike, NDArray

from configs.errors import UsageError
from data.memory import release_freed_memory

_WRITING = "group_size:1"  # one record per group, since they are read in shuffled order
_READING = "readahead_buffer_size:0,max_parallelism:0"  # no reading ahead in shuffled order
RELEASE_BYTES = 2**25  # after as many bytes of records, memory that was freed is released
KEPT_BYTES = 2**26  # a file up to this size is read once and kept in memory


@dataclass(frozen=True)
class RecordReader:
    """Reads the records of a file. Thread-safe. Each process opens the file at its first read.

    count: the number of records in the file.
    kept_bytes: a file up to this size is read whole at the first read, and kept in memory.
    """

    path: Path
    dtype: np.dtype
    count: int
    kept_bytes: int = KEPT_BYTES

    def read(self, indices: ArrayLike) -> NDArray[Any]:
        """Return the records at `indices`, `dtype` [len(indices)].

        Raises UsageError if the file is missing, or is damaged: it then names the first record that
        can't be read.
        """
        indices = np.asarray(indices, np.int64)
        if self._kept is not None:
            return self._kept[indices]
        return self._join(self._read_each(indices.tolist()))

    @cached_property
    def _reader(self) -> ArrayRecordReader:
        try:
            reader = ArrayRecordReader(str(self.path), _READING)
            found = reader.num_records()
        except (ValueError, RuntimeError) as error:
            raise self._damaged(error) from error
        if found != self.count:  # A file that is missing has no records, says ArrayRecord.
            there = f"it has {found:,} of {self.count:,} records"
            raise self._damaged(there if self.path.exists() else "it is missing")
        return reader

    @cached_property
    def _kept(self) -> NDArray[Any] | None:
        """All records, if they are few enough; else None."""
        reader = self._reader
        if not self.are_few:
            return None
        try:
            return self._join(reader.read_all())
        except (ValueError, RuntimeError):
            return self._join(self._read_each(range(self.count)))

    def _read_each(self, indices: Iterable[int]) -> list[bytes]:
        """Return the records at `indices`, read one by one: to read a list, ArrayRecord first makes
        a table of all records that there are."""
        read, found = self._reader.read, list[bytes]()
        index = 0
        try:
            for index in indices:
                found.append(read(index, index + 1)[0])
        except (ValueError, RuntimeError, IndexError) as error:
            raise self._damaged(f"record {index} of {self.count:,}: {error}") from error
        return found

    def _damaged(self, what: object) -> UsageError:
        return UsageError(
            f"{self.path} is damaged: {what}. Delete the folder {self.path.parent}: it will be "
            "prepared again"
        )

    @cached_property
    def are_few(self) -> bool:
        """Whether the records are few enough to keep in memory."""
        if self.dtype == object:
            return self.path.exists() and self.path.stat().st_size <= self.kept_bytes
        return self.count * self.dtype.itemsize <= self.kept_bytes

    def _join(self, records: list[bytes]) -> NDArray[Any]:
        if self.dtype == object:
            found = np.empty(len(records), object)
            found[:] = records
            return found
        return np.frombuffer(b"".join(records), self.dtype, count=len(records))

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("path", "dtype", "count", "kept_bytes")}


class RecordWriter:
    """Writes a file of records: `with RecordWriter(path) as writer: ...`."""

    def __init__(self, path: Path):
        self._file = ArrayRecordWriter(str(path), _WRITING)
        self._hasher = hashlib.sha256()
        self._since_release = 0  # bytes

    def write(self, block: NDArray[Any]) -> None:
        """Append the records of `block`."""
        for record in bytes_of(block):
            self._hasher.update(record)
            self._file.write(record)
            self._since_release += len(record)
        if self._since_release > RELEASE_BYTES:
            release_freed_memory()
            self._since_release = 0

    @property
    def sha256(self) -> str:
        """The SHA-256 of all records so far, in hexadecimal."""
        return self._hasher.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def names_path(records: Path) -> Path:
    """Return the path of the file with the names of the examples in the record file `records`."""
    return records.with_suffix(".names.jsonl")


def write_names(records: Path, names: Iterable[str]) -> None:
    """Write the names of the examples in the record file `records`, in order."""
    with names_path(records).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(name) + "\n" for name in names)


def read_names(records: Path) -> list[str] | None:
    """Return the names of the examples in the record file `records`; None if it has no names."""
    path = names_path(records)
    if not path.exists():
        return None
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bytes_of(block: NDArray[Any]) -> Iterable[bytes]:
    """Return the bytes of each record in `block`."""
    if block.dtype == object:
        return block.tolist()
    content, size = block.tobytes(), block.dtype.itemsize
    return [content[start : start + size] for start in range(0, len(content), size)]
