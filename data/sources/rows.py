"""Rows, which readers find and views make raw examples of, and the source that is both together."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, compress, count
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.schema.source import DecodedText
from data.classes import assign_classes
from data.progress import Progress, delayed, silent, track
from data.sources.source import Examples, Source, held_out_mask
from data.sources.splits import SPLITS, Layout
from data.sources.values import label_of

NAMES_VERSION = 2
"""Part of the cache key. Increase it when the names of examples change."""

Row = tuple[str, Mapping[str, Any]]
"""A row's location (for error messages), and its values by field."""

Wanted = NDArray[np.bool_] | None
"""Which rows of a table to read, bool [rows]; None: all."""


class Table(Protocol):
    """Rows that are numbered from 0, such as those of a file, or of a split of a data set."""

    @property
    def name(self) -> str:
        """The table's name, such as its path below the folder of the data."""
        ...

    @property
    def rows(self) -> int:
        """The number of rows."""
        ...

    @property
    def size(self) -> int:
        """The number of bytes of all texts, or a larger estimate; 0 for what is no text."""
        ...

    def name_of(self, row: int) -> str:
        """Return the name of row number `row`, by which it is called in messages and results."""
        ...

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted rows. fields: the fields that each must have, each with the setting that
        names it. Raises UsageError if a row lacks a field or can't be read."""
        ...


@dataclass(frozen=True)
class ListedRows:
    """A table of rows that are known when a source is opened, such as files.

    items: what the rows are made of; each has its row's `name`.
    make: a function that returns the row of an item.
    """

    name: str
    items: Sequence[Any]
    make: Callable[[Any], Row]
    size: int = 0

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.items)

    def name_of(self, row: int) -> str:
        """Return the name of row number `row`."""
        return self.items[row].name

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted rows, with all their fields."""
        return map(self.make, self.items if wanted is None else compress(self.items, wanted))


@dataclass(frozen=True)
class Opened:
    """What a reader found.

    tables: the tables of each split.
    key: JSON values that change if the rows change.
    held_out: share of the training rows that the reader held out for validation itself; None: it
        left that to `open_rows`.
    classes: the names of the classes, if the reader knows them; labels are then their numbers.
    layout, warnings, channels, characters: as in `Source`.
    """

    tables: Mapping[str, Sequence[Table]]
    key: Mapping[str, Any]
    held_out: float | None = None
    classes: tuple[str, ...] | None = None
    layout: Layout[Any] | None = None
    warnings: tuple[str, ...] = ()
    channels: int = 3
    characters: Mapping[str, int] | None = None


@dataclass(frozen=True)
class View:
    """Base class of views.

    named: the fields that settings name, by the setting: {"text_field": "body"}.
    invalid_utf8: `data.invalid_utf8`.
    numbers: the number of each label's class; None if labels stay as they are.
    """

    named: Mapping[str, str]
    invalid_utf8: str
    numbers: Mapping[str, int] | None = None

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the tables to read; of others, only if they are given, or alone in a folder. ():
    all tables are read."""
    things: ClassVar[str] = "records"
    """The noun for examples in messages."""
    place: ClassVar[str] = "read from"
    """What tables are for these, in messages."""
    numbers_classes: ClassVar[bool] = False
    """Whether examples have the numbers of classes. Of other views, labels stay text."""

    @cached_property
    def fields(self) -> dict[str, str]:
        """The fields that every row must have, each with the setting that names it; the content
        comes first."""
        return self.text_fields

    @property
    def key(self) -> dict[str, Any]:
        """JSON values that change if the same rows become other examples."""
        return {"names": NAMES_VERSION, "invalid": self.invalid_utf8}

    @property
    def text_field(self) -> str:
        """The field with the text or transcript."""
        return self.named["text_field"]

    @property
    def label_field(self) -> str:
        """The field with the label."""
        return self.named["label_field"]

    @property
    def text_fields(self) -> dict[str, str]:
        """`text_field`, as in `fields`."""
        return {self.text_field: "data.text_field"}

    @property
    def label_fields(self) -> dict[str, str]:
        """`label_field`, as in `fields`."""
        return {self.label_field: "data.label_field"}

    def label_of(self, where: str, row: Mapping[str, Any]) -> str:
        """Return the label of a row as text. where: the row's location, for errors."""
        return label_of(where, row, self.label_field, self.invalid_utf8)

    def number_of(self, where: str, row: Mapping[str, Any]) -> Any:
        """Return the number of a row's class; while classes have no numbers, what the row has."""
        if self.numbers is not None:
            return self.numbers[self.label_of(where, row)]
        value = row[self.label_field]
        return value if isinstance(value, int) else self.label_of(where, row)

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the raw examples of a row.

        name: the row's name.
        where: its location, for errors.

        Raises UsageError if a value is of the wrong type.
        """
        raise NotImplementedError

    def more_examples(self, table: Table) -> int:
        """Return how many examples a table may have more than rows."""
        return 0

    def check(self, table: Table) -> bool:
        """Make the first example of a table, so that what is wrong with it fails at once. Return
        whether it has a row. Raises UsageError."""
        first = next(iter(table.read(self.fields)), None)
        if first is not None:
            next(self.examples(table.name, *first), None)
        return first is not None


Reader = Callable[[Any, View, Progress], Opened]
"""A function that finds the rows that `settings` (`config.data`) describe, for a view, and reports
its progress if it takes long."""


@dataclass(frozen=True)
class HeldOut:
    """The training rows that are held out, about `fraction` of them, by a hash of table and row."""

    tables: Sequence[Table]
    fraction: float

    @cached_property
    def masks(self) -> list[NDArray[np.bool_]]:
        """True for each row of each table that is held out. Raises UsageError if all are, or
        none."""
        # Not by `name_of`: a change of naming must not move examples between splits.
        names = (f"{table.name}:{row}" for table in self.tables for row in range(table.rows))
        mask = held_out_mask(names, self.fraction)
        if not mask.any() or mask.all():
            raise UsageError(
                f"{self.tables[0].name}: of {len(mask)} records nothing is left for "
                f"{'training' if mask.any() else 'validation'}. Give more, or "
                "data.validation_fraction=0 for no validation"
            )
        return np.split(mask, np.cumsum([table.rows for table in self.tables])[:-1])


@dataclass(frozen=True)
class RowExamples(Examples):
    """The raw examples that `view` makes of the rows of `tables`.

    held_out: which of the rows are held out; None if none is.
    takes_held_out: whether these, or all others, are the examples.
    """

    tables: Sequence[Table]
    view: View
    held_out: HeldOut | None = None
    takes_held_out: bool = False

    def __len__(self) -> int:
        rows = (
            table.rows if wanted is None else int(wanted.sum()) for table, wanted in self._wanted()
        )
        return sum(rows) + sum(map(self.view.more_examples, self.tables))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(self._by_row())

    def labels(self) -> Iterator[str]:
        """Yield the label of each row."""
        for table, wanted in self._wanted():
            for where, values in table.read(self.view.label_fields, wanted):
                yield self.view.label_of(where, values)

    def _by_row(self) -> Iterator[Iterator[dict[str, Any]]]:
        for table, wanted in self._wanted():
            rows = count() if wanted is None else np.flatnonzero(wanted).tolist()
            # Not strict: a file may change while it is read.
            found = zip(rows, table.read(self.view.fields, wanted), strict=False)
            for row, (where, values) in found:
                yield self.view.examples(table.name_of(row), where, values)

    def _wanted(self) -> Iterator[tuple[Table, Wanted]]:
        if self.held_out is None:
            return ((table, None) for table in self.tables)
        masks = self.held_out.masks
        return zip(
            self.tables, masks if self.takes_held_out else [~mask for mask in masks], strict=True
        )


def _labels(examples: RowExamples, split: str, progress: Progress) -> Iterator[str]:
    """Yield the label of each row, and report progress if that takes long."""
    stage, total = f"reading labels of {split}", len(examples)
    return track(examples.labels(), delayed(progress), stage, total, "labels")


def open_rows(
    settings: Any, reader: Reader, view_type: type[View], progress: Progress = silent
) -> Source:
    """Return the source of the raw examples that a view makes of the rows that a reader finds.

    settings: `config.data`.
    progress: reports only what takes long.

    If there is no validation split, `data.validation_fraction` of the training rows is held out.
    Raises UsageError if there are no rows, or if they are wrong at first sight.
    """
    invalid_utf8 = settings.invalid_utf8 if isinstance(settings, DecodedText) else "error"
    view = view_type(settings.named_fields(), invalid_utf8)
    opened = reader(settings, view, progress)
    splits = {split: RowExamples(tables, view) for split, tables in opened.tables.items()}
    fraction = opened.held_out
    if fraction is None:
        fraction = 0.0 if "validation" in splits else settings.validation_fraction
        if fraction:
            train = opened.tables["train"]
            held_out = HeldOut(train, fraction)
            splits |= {
                split: RowExamples(train, view, held_out, split == "validation")
                for split in ("train", "validation")
            }
    classes, warnings = opened.classes, opened.warnings
    if view.numbers_classes and classes is None:
        found = assign_classes(
            {split: Counter(_labels(of, split, progress)) for split, of in splits.items()},
            thing=view.things.removesuffix("s"),
            validation_is_cut=fraction > 0,
        )
        classes, warnings = found.names, (*warnings, *found.warnings)
        view = replace(view, numbers=found.number_of)
        splits = {split: replace(examples, view=view) for split, examples in splits.items()}
    return Source(
        settings.source,
        {split: splits[split] for split in SPLITS if split in splits},
        {"held_out": fraction, "fields": [*view.fields], **view.key, **opened.key},
        fraction,
        opened.layout,
        warnings,
        classes,
        opened.channels,
        opened.characters,
    )
