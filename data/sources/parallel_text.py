"""Reads the user's pairs of texts: two files whose lines correspond, or a table."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.progress import Progress, Reached
from data.sources.files import files_in, is_hidden, name_below, refuse_copies
from data.sources.opening import lines_of
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.splits import assign, split_of
from data.sources.suffixes import without_compression
from data.sources.tables import TABLE_SUFFIXES, listed, open_tables
from data.sources.values import decode

Sides = tuple[Path, Path]
"""The file with the source texts, and the file with the target texts."""


@dataclass(frozen=True)
class ParallelFiles:
    """Two files whose lines correspond, as rows: line n of the second is the target of line n of
    the first."""

    name: str
    sides: Sides
    rows: int
    invalid_utf8: str
    size = 0

    def name_of(self, row: int) -> str:
        """Return the name of pair number `row` (from 0): the files' common name and the line."""
        return f"{self.name}:{row + 1}"

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted pairs of lines, without line ends. fields: the names of both."""
        pairs = zip(*(_lines(path, self.invalid_utf8) for path in self.sides), strict=True)
        rows = ((self.name, dict(zip(fields, pair, strict=True))) for pair in pairs)
        return rows if wanted is None else compress(rows, wanted)


def open_pairs(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the pairs at `data.path`: two files, two files for each split, or a table.

    For the languages en and de, `data.path` may be

    - a folder with pairs of files such as train.en and train.de, or else a folder in which such
      files are in folders; `splits.assign` assigns the pairs to splits;
    - a path without ending, such as corpus, for corpus.en and corpus.de (or corpus.train.en, ...);
    - a table, or a folder of tables.

    Files may be compressed. Without a validation split, `data.validation_fraction` of the
    pairs is held out. Raises UsageError if a file has no counterpart, or if the two files of a pair
    have different numbers of lines.
    """
    found = _find(settings)
    if not found:
        return open_tables(settings, view, progress)
    _refuse_fields(settings, next(iter(found.values())))
    ending = f"{{{settings.source_language},{settings.target_language}}}"
    layout = assign([*found], lambda name: f"{name}.{ending}", settings)
    tables, hashes = {}, {}
    for split, names in layout.splits.items():
        sides = [found[name] for name in names]
        root = str(sides[0][0].parent.absolute())
        with FileStatCache(
            settings, "opened lines", settings.invalid_utf8, root, split
        ) as file_stat_cache:
            each = file_stat_cache.of_all(
                [path for both in sides for path in both],
                lambda path, reached: _count(path, settings.invalid_utf8, reached),
                *(progress, f"opening {split}"),
            )
        counted = [*zip(each[::2], each[1::2], strict=True)]
        tables[split] = [
            ParallelFiles(name, both, _common(both, counts), settings.invalid_utf8)
            for name, both, counts in zip(names, sides, counted, strict=True)
        ]
        hashes[split] = [[name, *counts] for name, counts in zip(names, counted, strict=True)]
        if not sum(table.rows for table in tables[split]):
            raise UsageError(f"{sides[0][0]} and {sides[0][1]} are empty")
    warnings = (*_tables_beside(settings.path, next(iter(found.values()))),)
    return Opened(tables, {"lines": hashes}, layout=layout, warnings=warnings)


def _find(settings: Any) -> dict[str, Sides]:
    """Return the pairs of files by their name without ending, sorted. Return an empty dictionary if
    there is a table instead.

    Files inside of the folders of a folder are found only if it holds none itself.
    """
    path = Path(settings.path).expanduser()
    is_folder, languages = path.is_dir(), (settings.source_language, settings.target_language)
    folder = path if is_folder else path.parent
    there = [one for one in sorted(folder.iterdir()) if one.is_file()] if folder.is_dir() else []
    there = [one for one in there if not is_hidden(one.name)]
    sources, targets = (_side(folder, there, language) for language in languages)
    if is_folder and not (sources or targets or any(map(_is_table, there))):
        there = sorted(files_in(folder))
        sources, targets = (_side(folder, there, language) for language in languages)
    begin = "" if is_folder else path.name
    refuse_copies(
        one for one in there if one.name.startswith(begin)
        and any(_without(one.name, language) is not None for language in languages)
    )  # fmt: skip
    if not is_folder:
        if path in (*sources.values(), *targets.values()):
            name = next(filter(None, (_without(path.name, language) for language in languages)))
            raise UsageError(
                f"data.path={settings.path} is one file of two: give data.path={folder / name}"
            )
        sources, targets = (_begun(path.name, side) for side in (sources, targets))
    for name in sorted({*sources} ^ {*targets}):
        if name in sources:
            raise _no_partner(sources[name], *languages, "data.target_language", there)
        raise _no_partner(targets[name], *languages[::-1], "data.source_language", there)
    if not sources and not path.is_file() and not any(map(_is_table, there)):
        raise _nothing(settings.path, languages, there if is_folder else ())
    return {name: (sources[name], targets[name]) for name in sorted(sources)}


def _tables_beside(given: str, sides: Sides) -> Iterator[str]:
    """Yield a warning for each table next to the pairs of files. sides: one of these pairs."""
    folder = Path(given).expanduser()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _is_table(path):
            read = " and ".join(side.name for side in sides)
            yield f"{path} is left out: {read} are read, and no tables beside such files"


def _refuse_fields(settings: Any, sides: Sides) -> None:
    for side in ("source_field", "target_field"):
        if (name := getattr(settings, side)) is not None:
            raise UsageError(
                f"data.{side}={name} is a column of a table, but data.path={settings.path} has "
                f"{sides[0].name} and {sides[1].name}: leave it out"
            )


def _no_partner(
    path: Path, language: str, other: str, setting: str, there: Sequence[Path]
) -> UsageError:
    """Return the error for the file `path` in `language`, which has no counterpart in the language
    `other`. there: all files in its folder."""
    name = _without(path.name, language)
    beside = [one for one in there if one.parent == path.parent and one != path]
    others = [one.name for one in beside if one.name.startswith(f"{name}.")]
    hint = f", but {', '.join(others)}: {setting} is the ending" if others else ""
    return UsageError(f"{path} has no {name}.{other} beside it{hint}")


def _nothing(path: str, languages: Sequence[str], there: Sequence[Path]) -> UsageError:
    wanted = " and ".join(f"train.{language}" for language in languages)
    has = f"has {', '.join(one.name for one in there[:6])}" if there else "has no such files"
    return UsageError(
        f"data.path={path} {has}: pairs are read from {wanted} (data.source_language, "
        f"data.target_language), or from {listed(TABLE_SUFFIXES)}"
    )


def _common(sides: Sides, counts: Sequence[tuple[int, str]]) -> int:
    """Return the number of lines of each file. Raises UsageError if the two numbers differ."""
    (source, target), (lines, others) = sides, (count for count, _ in counts)
    if lines != others:
        raise UsageError(
            f"{source} has {lines:,} lines, but {target} {others:,}: each line of the one is the "
            "target of that line of the other"
        )
    return lines


def _count(path: Path, invalid_utf8: str, reached: Reached) -> tuple[int, str]:
    """Return the number of lines and the SHA-256 of a file. Raises UsageError for invalid UTF-8."""
    hasher, number = hashlib.sha256(), 0
    for number, line in lines_of(path, reached):
        hasher.update(line)
        decode(line, invalid_utf8, f"{path}, line {number}")
    return number, hasher.hexdigest()


def _lines(path: Path, invalid_utf8: str) -> Iterator[str]:
    for number, line in lines_of(path):
        text = decode(line.rstrip(b"\r\n"), invalid_utf8, f"{path}, line {number}")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _side(folder: Path, there: Sequence[Path], language: str) -> dict[str, Path]:
    """Return the files in `language` by their path in `folder`, without the ending."""
    names = ((_without(name_below(folder, path), language), path) for path in there)
    return {name: path for name, path in names if name is not None}


def _without(name: str, language: str) -> str | None:
    """Return a file's name without `.language` (and the suffix of compression); None if it has
    another ending."""
    name, ending = without_compression(name), f".{language}"
    return name.removesuffix(ending) if name.endswith(ending) and name != ending else None


def _begun(begin: str, side: dict[str, Path]) -> dict[str, Path]:
    """Return the files of `side` that are named `begin`, or `begin` and a split. The latter are
    renamed to the split: corpus.train becomes train."""
    found = {}
    for name, path in side.items():
        rest = name[len(begin) + 1 :]
        said = split_of(rest) if "." not in rest else None
        if name == begin:
            found[name] = path
        elif name[: len(begin) + 1] in (f"{begin}.", f"{begin}-", f"{begin}_") and said and said[1]:
            found[rest] = path
    return found


def _is_table(path: Path) -> bool:
    return path.name.endswith(TABLE_SUFFIXES)
