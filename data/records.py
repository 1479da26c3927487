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

_WRITING = "group_size:1"  # one record per group, since they are read in shuffled order
_READING = "readahead_buffer_size:0,max_parallelism:0"  # no reading ahead in shuffled order
KEPT_BYTES = 2**26  # a file up to this size is read once and kept in memory


@dataclass(frozen=True)
class RecordReader:
    """Reads the records of a file. Thread-safe. Each process opens the file at its first read.

    kept_bytes: a file up to this size is read whole at the first read, and kept in memory.
    """

    path: Path
    dtype: np.dtype
    kept_bytes: int = KEPT_BYTES

    def read(self, indices: ArrayLike) -> NDArray[Any]:
        """Return the records at `indices`, `dtype` [len(indices)].

        Raises UsageError if the file is damaged.
        """
        indices = np.asarray(indices, np.int64)
        try:
            if self._kept is not None:
                return self._kept[indices]
            # One by one: to read a list, ArrayRecord first makes a table of all records there are.
            return self._join([self._reader.read(i, i + 1)[0] for i in indices.tolist()])
        except (ValueError, RuntimeError, IndexError) as error:
            raise UsageError(
                f"{self.path} is damaged: {error}. Delete the folder {self.path.parent}: "
                "it will be prepared again"
            ) from error

    @cached_property
    def _reader(self) -> ArrayRecordReader:
        return ArrayRecordReader(str(self.path), _READING)

    @cached_property
    def _kept(self) -> NDArray[Any] | None:
        """All records, if they are few enough; else None."""
        if not self.are_few(self._reader.num_records()):
            return None
        return self._join(self._reader.read_all())

    def are_few(self, count: int) -> bool:
        """Return whether a set of `count` records is small enough to keep in memory."""
        if self.dtype == object:
            return self.path.stat().st_size <= self.kept_bytes
        return count * self.dtype.itemsize <= self.kept_bytes

    def _join(self, records: list[bytes]) -> NDArray[Any]:
        if self.dtype == object:
            found = np.empty(len(records), object)
            found[:] = records
            return found
        return np.frombuffer(b"".join(records), self.dtype, count=len(records))

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("path", "dtype", "kept_bytes")}


class RecordWriter:
    """Writes a file of records: `with RecordWriter(path) as writer: ...`."""

    def __init__(self, path: Path):
        self._file = ArrayRecordWriter(str(path), _WRITING)
        self._hasher = hashlib.sha256()

    def write(self, block: NDArray[Any]) -> None:
        """Append the records of `block`."""
        for record in bytes_of(block):
            self._hasher.update(record)
            self._file.write(record)

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
