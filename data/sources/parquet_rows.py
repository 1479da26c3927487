"""Reads Parquet."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from configs.errors import UsageError
from data.sources.opening import refuse_other_files
from data.sources.rows import Row
from data.sources.tables import Rows, check_fields
from data.sources.values import decode, no_text


class Parquet(Rows):
    """A Parquet file. Only the needed columns are read, a few rows at a time; all of them if none
    is named.

    As the file has no lines, its rows are numbered, from 0.
    """

    def name_of(self, row: int) -> str:
        """Return the name of row number `row` (from 0): the file and the number."""
        return f"{self.name} row {row}"

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        return [name for name, _ in _columns(self._open().schema_arrow)]

    def values(self, column: str) -> Iterator[tuple[str, Any]]:
        """Yield each row's location, and its value in `column`."""
        for where, row in self.read({column: ""}):
            value = row[column]
            if isinstance(value, bytes):
                value = decode(value, self.invalid_utf8, where)
            yield where, value

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        import pyarrow

        file, row = self._open(), 0
        kinds, named = dict(_columns(file.schema_arrow)), [*fields] or file.schema_arrow.names
        texts = [name for name, kind in kinds.items() if _is_text(kind)]
        check_fields(str(self.path), fields, kinds)
        if self.field in fields and self.field not in texts:
            raise no_text(str(self.path), self.field, str(kinds[self.field]), texts)
        try:
            for batch in file.iter_batches(batch_size=1024, columns=named):
                columns = [_column(batch, name) for name in named]
                columns = [
                    _as_bytes(column) if fields and name in texts else column
                    for name, column in zip(named, columns, strict=True)
                ]
                for values in zip(*(column.to_pylist() for column in columns), strict=True):
                    yield f"{self.path}, row {row}", dict(zip(named, values, strict=True))
                    row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{self.path} is damaged after row {row}: {error}") from None

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        metadata = self._open().metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        columns = [group.column(n) for group in groups for n in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self.field)
        return range(metadata.num_rows), size

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            if self.path.is_file():
                with self.path.open("rb") as file:
                    head = file.read(512)
                if not head.startswith(b"PAR1"):
                    refuse_other_files(self.path, head)
            raise UsageError(f"{self.path} is no whole Parquet file: {error}") from None


def _columns(schema: Iterable[Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each column of a Parquet file and its type; structs are replaced by their nested
    columns."""
    from pyarrow import types

    for field in schema:
        if types.is_struct(field.type):
            yield from _columns(field.type, f"{outer}{field.name}.")
        else:
            yield f"{outer}{field.name}", field.type


def _column(batch: Any, name: str) -> Any:
    """Return the values of a column, which may be nested in a struct."""
    import pyarrow.compute

    if name in batch.schema.names:
        return batch.column(name)
    outer, *inner = name.split(".")
    return pyarrow.compute.struct_field(batch.column(outer), inner)


def _is_text(kind: Any) -> bool:
    """Return whether a column can contain text. Many programs store it as binary."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
             types.is_large_binary, types.is_binary_view)  # fmt: skip
    return any(is_kind(kind) for is_kind in kinds)


def _as_bytes(column: Any) -> Any:
    """Return a column of text as binary, so that invalid UTF-8 can be found row by row."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_string_view(column.type):
        column = column.cast(pyarrow.string())
    return column if types.is_binary_view(column.type) else column.cast(pyarrow.binary())
