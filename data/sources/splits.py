"""Recognises splits by the names of the user's files and folders: train.csv, dev/, imdb_test.tsv.

`data.splits` = names is what this module does; with none, everything is for training.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from configs.errors import UsageError

SPLITS = ("train", "validation", "test")

_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev|eval",
    "test": "test|testing|h[eo]ld[-_ ]?out",
}
_SPLIT = (
    f"(?:{'|'.join(f'(?P<{split}>{words})' for split, words in _WORDS.items())})"
    r"(?:[-_ ]?(?:set|split|data|dataset))?"
    r"(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?"
)
_YEAR = r"(?:19|20)\d\d(?!\d)"
_NUMBER = rf"(?:[-_]?(?:part|shard|chunk))?(?:[-_]\d+|(?!{_YEAR})\d+)"  # of a part
_ALONE = re.compile(rf"{_SPLIT}(?P<number>{_NUMBER})?(?:\..*)?", re.IGNORECASE | re.DOTALL)
_FIRST = re.compile(rf"{_SPLIT}(?:[-_ ]|(?=\d)).+", re.IGNORECASE | re.DOTALL)
_LAST = re.compile(rf".+[-_. ]{_SPLIT}(?:[-_]?\d+)?(?:\.[^.]+){{0,2}}", re.IGNORECASE | re.DOTALL)
_PARTITION = re.compile(r"\w+=")
"""Begins the names of folders that Hive, Spark and DuckDB write, such as split=train."""

_DOCUMENTATION = ("readme", "license", "licence")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Layout(Generic[Item]):
    """The user's files or folders by split.

    splits: the items of each split, in the order of `SPLITS`.
    places: for each split that names were recognised of, the files or folders with these names, as
        a text; empty if none was recognised.
    warnings: messages for the user.
    """

    splits: Mapping[str, Sequence[Item]]
    places: Mapping[str, str]
    warnings: tuple[str, ...] = ()


class _Mark(NamedTuple):
    """The part of a path that names a split; folders end with a slash.

    rank: 2 if it says only the split, 1 if it also says the number of a part, as train-0.csv does,
        0 if it says more.
    """

    split: str
    part: str
    rank: int

    @property
    def is_alone(self) -> bool:
        """As `split_of`."""
        return self.rank > 0


def split_of(name: str) -> tuple[str, bool] | None:
    """Return the split that a file or folder is named after, and whether its name says only that.

    Of train.txt, Training_set, split=train, train-000012.tar and train-00000-of-00002.parquet this
    is ("train", True); of imdb.train.csv and train2017, a year, it is ("train", False). A name that
    says no split, or two of them as train_dev.csv does, gives None.
    """
    mark = _said(name)
    return None if mark is None else (mark.split, mark.is_alone)


@lru_cache(2**14)
def _said(name: str) -> _Mark | None:
    """Return what a single name says of a split."""
    rest = name[partition.end() :] if (partition := _PARTITION.match(name)) else name
    if alone := _ALONE.fullmatch(rest):
        return _Mark(_split(alone), name, 1 if alone["number"] else 2)
    said = [pattern.fullmatch(rest) for pattern in (_FIRST, _LAST)]
    splits = {_split(match) for match in said if match}
    return _Mark(splits.pop(), name, 0) if len(splits) == 1 else None


def _split(match: re.Match[str]) -> str:
    return next(split for split in SPLITS if match[split])


def assign(items: Sequence[Item], name: Callable[[Item], str], settings: Any) -> Layout[Item]:
    """Assign the files of a folder to splits.

    name: returns the path of an item relative to the folder, with slashes.
    settings: `config.data`; of its fields, `path` and `splits` are read.

    An item belongs to the split that its folder or its file is named after. If none is named so,
    all items are for training. Files named README or LICENSE, and files beside the folders of
    splits, are in no split. Raises UsageError if other items are in no split, or if none is for
    training. If only longer names say a split, and not all of them (test_plan.md), a warning says
    that these are trained on.
    """
    every = Layout({"train": items}, {})
    if settings.splits == "none":
        return every
    names = [name(item) for item in items]
    marks = _marks(names)
    found, loose, others = [mark for mark in marks if mark is not None], list[str](), list[str]()
    around = {mark.part.rstrip("/").rpartition("/")[0] for mark in found}
    in_folders = all(mark.part.endswith("/") for mark in found)
    for one in (one for one, mark in zip(names, marks, strict=True) if mark is None):
        folder, _, file = one.rpartition("/")
        if not file.lower().startswith(_DOCUMENTATION):
            (loose if in_folders and folder in around else others).append(one)
    splits = [split for split in SPLITS if split in {mark.split for mark in found}]
    if "train" in splits and not others:
        divided = {
            split: [item for item, mark in zip(items, marks, strict=True)
                    if mark is not None and mark.split == split]
            for split in splits
        }  # fmt: skip
        parts = {split: _parts(mark for mark in found if mark.split == split) for split in splits}
        places = {split: listed(of) for split, of in parts.items()}
        return Layout(divided, places, _left_out(loose, _parts(found)))
    if any(mark.is_alone for mark in found) or ("train" in splits and len(splits) > 1):
        none = "data.splits=none takes everything for training"
        raise _unclear(settings.path, splits, _parts(found), others, none)
    return Layout({"train": items}, {}, trained_on(names))


def assign_folders(folders: Sequence[Path], settings: Any) -> Layout[Path]:
    """Assign the folders beside each other that hold examples: each is a split, or each a class.

    They are splits if all of them are named after different splits. Returns no splits if they are
    classes, with a warning if one of these has the name of a split. Raises UsageError if several
    splits are there and other folders, too, or if none is for training.
    """
    marks = _marks([folder.name for folder in folders]) if settings.splits == "names" else []
    found = [mark for mark in marks if mark is not None]
    splits = [split for split in SPLITS if split in {mark.split for mark in found}]
    are_alone = any(mark.is_alone for mark in found)
    none = "with data.splits=none each folder is a class"
    if len(splits) == len(folders) and ("train" in splits or are_alone):
        if "train" not in splits:
            raise _unclear(settings.path, splits, _parts(found), (), none)
        of = {mark.split: folder for mark, folder in zip(found, folders, strict=True)}
        places = {split: f"{of[split].name}/" for split in splits}
        return Layout({split: [of[split]] for split in splits}, places)
    others = [one.name for one, mark in zip(folders, marks, strict=False) if mark is None]
    if len(splits) > 1 and ("train" in splits or are_alone):
        twice = next((s for s in splits if [m.split for m in found].count(s) > 1), None)
        if twice and not others:
            names = listed(_parts(mark for mark in found if mark.split == twice))
            raise UsageError(
                f"{settings.path}: {names} are all named after {twice}: join them; {none}"
            )
        raise _unclear(settings.path, splits, _parts(found), others, none)
    named = [mark.part for mark in found if mark.is_alone]
    if not named:
        return Layout({}, {})
    warning = (
        f"{listed(named)} of {settings.path} {_are(named, 'is a class', 'are classes')}: folders "
        "are splits only if all beside each other are (data.splits)"
    )
    return Layout({}, {}, (warning,))


def trained_on(names: Iterable[str]) -> tuple[str, ...]:
    """Return a warning if files that are for training are named after another split.

    names: the files' paths, relative to a folder.
    """
    marks = [mark for name in names if (mark := _mark(name)) and mark.split != "train"]
    if not marks:
        return ()
    parts, splits = _parts(marks), " and ".join(dict.fromkeys(mark.split for mark in marks))
    say = _are(parts, "is trained on, though its name says", "are trained on, though they say")
    return (
        f"{listed(parts)} {say} {splits}: give a folder in which every name says its split, or "
        "data.splits=none if this is right",
    )


def listed(names: Sequence[str]) -> str:
    """Return up to three names in words, or two and the number of all others."""
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2:,} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _marks(names: Iterable[str]) -> list[_Mark | None]:
    """Return what says a split in each relative path. Where one name says only train, another such
    as train_old or train-1 says none: nobody can tell whether it belongs to it."""
    marks, ranks = [_mark(name) for name in names], dict[str, int]()
    for mark in filter(None, marks):
        ranks[mark.split] = max(mark.rank, ranks.get(mark.split, 0))
    return [mark if mark and mark.rank == ranks[mark.split] else None for mark in marks]


def _mark(name: str) -> _Mark | None:
    """Return the first part of a path that says only a split; else the first that says one."""
    parts, first = name.split("/"), None
    for count, part in enumerate(parts, 1):
        if said := _said(part):
            end = "/" if count < len(parts) else ""
            mark = said._replace(part="/".join(parts[:count]) + end)
            if mark.is_alone:
                return mark
            first = first or mark
    return first


def _parts(marks: Iterable[_Mark]) -> list[str]:
    return [*dict.fromkeys(mark.part for mark in marks)]


def _left_out(loose: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    if not loose:
        return ()
    are = _are(loose, "is", "are")
    return (
        f"{listed(loose)} {are} left out: only {listed(parts)} {_are(parts, 'is', 'are')} read",
    )


def _unclear(
    given: str, splits: Sequence[str], parts: Sequence[str], others: Sequence[str], none: str
) -> UsageError:
    """Return the error for names of splits beside `others`, or without train. none: what
    `data.splits` = none would do."""
    if not others:
        return UsageError(
            f"{given} holds {' and '.join(splits)}, but no train ({listed(parts)}); {none}"
        )
    return UsageError(
        f"{given}: {listed(parts)} {_are(parts, 'is', 'are')} named after "
        f"{_are(splits, 'a split', 'splits')}, but {listed(others)} {_are(others, 'is', 'are')} "
        f"not. With data.splits=names every name has to say its split: move the others elsewhere; "
        f"{none}"
    )


def _are(things: Sequence[str], one: str, several: str) -> str:
    return one if len(things) == 1 else several
