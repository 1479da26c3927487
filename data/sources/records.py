"""Sources of text records: a record is a text, a text with a label, or a pair of texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.sources.columns import describe_unread
from data.sources.documents import PIECE_CHARACTERS, pieces, text_features
from data.sources.files import file_sha256, find_files, name_below
from data.sources.opening import COMPRESSED, compressible
from data.sources.source import held_out_mask
from data.sources.splits import SPLITS, Layout
from data.sources.tables import Rows, open_rows

JSON_LINES = compressible(".jsonl")
SUFFIXES = (*JSON_LINES, ".parquet")
TABLE_SUFFIXES = (*compressible(".csv", ".tsv"), *SUFFIXES)
JSON_SUFFIXES = compressible(
    ".json"
)  # read if given as the path; in a folder they may be of any kind

NAMES_VERSION = 2
"""Part of the cache key. Increase it when the names of records change."""


class Table(Protocol):
    """The interface of a file of records, which are numbered from 0."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def name_of(self, row: int) -> str:
        """Return a record's name: the file and its line (its row if the file has no lines)."""
        ...


@dataclass(frozen=True)
class TextRecords:
    """A source of text. Each record of a table is a document.

    tables: the tables of each split, by the split's name.
    read: a function that yields the text, or texts, of each record of a table.
    key: JSON values that change if the records change.
    held_out: share of the training records that is held out for validation, chosen by a hash of
        each record's table and row.
    layout: how the tables were assigned to splits, if the user gave them.
    warnings: messages for the user.
    """

    name: str
    tables: Mapping[str, Sequence[Table]]
    read: Callable[[Any], Iterator[Any]]
    key: Mapping[str, Any]
    held_out: float
    layout: Layout[Any] | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        settings: Any,
        tables: Mapping[str, Sequence[Table]],
        read: Callable[[Any], Iterator[Any]],
        key: Mapping[str, Any],
        **more: Any,
    ) -> Self:
        """Build the source. If `tables` has no validation split, hold out
        `data.validation_fraction` of the training records."""
        held_out = 0.0 if "validation" in tables else settings.validation_fraction
        every = (table for of in tables.values() for table in of)
        told = [line for table in every for line in getattr(table, "warnings", ())]
        more["warnings"] = (*more.get("warnings", ()), *told)
        return cls(settings.source, tables, read, key, held_out, **more)

    @cached_property
    def splits(self) -> dict[str, int]:
        most = {split: sum(map(self._most, tables)) for split, tables in self.tables.items()}
        if self.held_out:
            share = self._mask.mean()
            most |= {
                "train": int(most["train"] * (1 - share)) + 1,
                "validation": int(most["train"] * share) + 1,
            }
        return {split: most[split] for split in SPLITS if split in most}

    def source_key(self) -> dict[str, Any]:
        settings = {"piece_characters": PIECE_CHARACTERS, "held_out": self.held_out}
        return {"names": NAMES_VERSION, **settings, **self.key}

    def features(self) -> dict[str, Any]:
        return text_features()

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        wanted = split == "validation"
        masked = self.held_out and split in ("train", "validation")
        number = 0
        for table in self.tables["train" if masked else split]:
            for row, found in enumerate(self.read(table)):
                if not masked or self._mask[number] == wanted:
                    yield from self._parts(table.name_of(row), found)
                number += 1

    def _parts(self, name: str, found: Any) -> Iterator[dict[str, Any]]:
        """Yield the examples of a record.

        name: the record's name.
        found: its value from `read`.
        """
        for piece, text in enumerate(pieces([found])):
            yield {"document": name, "piece": piece, "text": text}

    def _most(self, table: Any) -> int:
        """Return the number of examples in a table, or a somewhat larger estimate."""
        return table.rows + table.size // PIECE_CHARACTERS

    @cached_property
    def _mask(self) -> NDArray[np.bool_]:
        """True for each training record that is held out, bool [records]."""
        tables = self.tables["train"]
        # Not by `name_of`: a change of naming must not move examples between splits.
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


@dataclass(frozen=True)
class LabelledRecords(TextRecords):
    """A source of texts with labels. A record is a text and a label, both strings."""

    def features(self) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        return {**text_features(), "label": tfds.features.Text()}

    def _parts(self, name: str, found: tuple[str, str]) -> Iterator[dict[str, Any]]:
        text, label = found
        return (piece | {"label": label} for piece in super()._parts(name, text))


@dataclass(frozen=True)
class PairRecords(TextRecords):
    """A source of pairs of texts.

    An example has a `source`, a `target` and a `name`.
    """

    def features(self) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        return dict.fromkeys(("name", "source", "target"), tfds.features.Text())

    def _parts(self, name: str, found: tuple[str, str]) -> Iterator[dict[str, Any]]:
        source, target = found
        yield {"name": name, "source": source, "target": target}

    def _most(self, table: Any) -> int:
        return table.rows


def open_source(settings: Any) -> TextRecords:
    """Open the records at `data.path` (JSON lines or Parquet) as documents.

    Files are found and assigned to splits by `files.find_files`. Without a validation split,
    `data.validation_fraction` of the records is held out. The first record of each file is read, so
    that wrong field names fail at once. Raises UsageError, for instance if there are no records.
    """
    tables, decided, layout = open_tables(settings, SUFFIXES, settings.text_field, Rows.texts)
    told = describe_unread(tables, [settings.text_field], settings)
    return TextRecords.of(settings, tables, Rows.texts, decided, layout=layout, warnings=told)


def open_labelled(settings: Any) -> LabelledRecords:
    """Open the rows at `data.path` as texts with labels, like `open_source`. CSV and TSV files are
    read too."""
    text, label = settings.text_field, settings.label_field
    read = partial(Rows.labelled, label=label)
    tables, decided, layout = open_tables(settings, TABLE_SUFFIXES, text, read)
    decided |= {"label": label}
    told = describe_unread(tables, [text, label], settings)
    return LabelledRecords.of(settings, tables, read, decided, layout=layout, warnings=told)


def open_pairs(settings: Any) -> PairRecords:
    """Open the rows at `data.path` as pairs of texts, like `open_source`. CSV and TSV files are
    read too."""
    source, target = settings.sides()
    read = partial(Rows.pairs, target=target)
    tables, decided, layout = open_tables(settings, TABLE_SUFFIXES, source, read)
    decided |= {"target": target}
    told = describe_unread(tables, [source, target], settings)
    return PairRecords.of(settings, tables, read, decided, layout=layout, warnings=told)


def open_tables(
    settings: Any, suffixes: tuple[str, ...], field: str, read: Callable[[Rows], Iterator[Any]]
) -> tuple[dict[str, list[Rows]], dict[str, Any], Layout[Path]]:
    """Return the tables of each split at `data.path`, JSON values that identify their contents, and
    how files were assigned to splits.

    suffixes: the suffixes of the files to read. Other tables are read if the path ends like one, or
        if a folder has none of `suffixes`.
    field: the field with the texts.
    read: a function that yields the records of a table; it is called for the first record, to check
        it.

    Raises UsageError, for instance if a split has no records.
    """
    layout, root = _find_tables(settings, suffixes)
    tables, hashes = {}, {}
    for split, paths in layout.splits.items():
        if not paths or not paths[0].name.endswith((*TABLE_SUFFIXES, *JSON_SUFFIXES)):
            what = f"{settings.path} holds no file for {split}" if not paths else paths[0]
            raise UsageError(f"{what}: records are read from {listed(TABLE_SUFFIXES)}")
        tables[split] = [
            open_rows(path, name_below(root, path), field, settings.invalid_utf8) for path in paths
        ]
        with FileStatCache(settings, "records", str(root.absolute()), split) as file_stat_cache:
            hashes[split] = [
                [table.name, file_stat_cache.of(table.path, file_sha256)] for table in tables[split]
            ]
        if not [table for table in tables[split] if next(read(table), None) is not None]:
            raise UsageError(f"{settings.path} holds no record for {split}")
    decided = {"files": hashes, "field": field, "invalid": settings.invalid_utf8}
    return tables, decided, layout


def _find_tables(settings: Any, suffixes: tuple[str, ...]) -> tuple[Layout[Path], Path]:
    """Return what `find_files` does, of the tables with `suffixes`, or else of all tables."""

    def find(kinds: tuple[str, ...]) -> tuple[Layout[Path], Path]:
        return find_files(settings, lambda path: path.name.endswith(kinds))

    found = find(TABLE_SUFFIXES if settings.path.endswith(TABLE_SUFFIXES) else suffixes)
    return found if found[0].splits["train"] else find(TABLE_SUFFIXES)


def listed(suffixes: Sequence[str]) -> str:
    """Return the suffixes of files for a message, without all those of compressed files."""
    plain = [suffix for suffix in suffixes if not suffix.endswith(COMPRESSED)]
    return f"{', '.join(plain)} (text also with {', '.join(COMPRESSED)})"
