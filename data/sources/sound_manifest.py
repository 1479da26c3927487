"""Reads the user's recordings, listed in tables: a row is an audio file and its target (a
transcript or a label)."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.reading.inputs import nearest_path
from data.classes import is_no_value, no_values
from data.file_stat_cache import FileStatCache
from data.forms import nfc
from data.progress import Progress
from data.sources.columns import describe_unread, refuse_segments
from data.sources.file_rows import UserFile, opened_files
from data.sources.files import file_sha256
from data.sources.opening import open_text
from data.sources.rows import Opened, View
from data.sources.source import hold_out_validation
from data.sources.splits import Layout
from data.sources.tables import Rows, find_tables, open_rows, refuse_known_names
from data.sources.values import text_of
from data.sources.views import ListedRecordings

_KNOWN = {
    "data.path_field": ("file_name", "audio_filepath", "audio_path", "audio", "file", "wav"),
    "data.text_field": ("transcription", "transcript", "sentence", "normalized_text"),
    "data.label_field": ("labels", "class", "category", "intent"),
}
"""Names of columns in the manifests of other programs, by the setting that chooses the column."""

_TO_TABLE = r"""awk -F'|' 'BEGIN {print "path\ttext"} {print "wavs/" $1 ".wav\t" $NF}'"""


def open_manifests(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the recordings in the tables at `data.path`, with their transcripts or labels.

    Without a validation split, `data.validation_fraction` of the recordings is held out, chosen by
    a hash of each path as written in the table. Raises UsageError, for instance if an audio file is
    missing.
    """
    assert isinstance(view, ListedRecordings)
    if len(view.fields) < 2:
        raise UsageError(
            f"data.path_field={settings.path_field} names the transcript or label, too: a "
            "recording needs both"
        )
    (layout, _), told = find_tables(settings, view, is_flat=True), list[str]()
    every = _read(layout, settings, view, progress, told)
    recordings, share = hold_out_validation(every, settings)
    told += _repeated(recordings)
    for split, of in recordings.items() if not view.numbers_classes else ():
        missing = [one.target for one in of if is_no_value(one.target)]
        told += no_values(missing, f"{len(of):,} transcripts of {split}")
    return opened_files(recordings, share, view, layout=layout, warnings=tuple(told))


def _read(
    layout: Layout[Path], settings: Any, view: ListedRecordings, progress: Progress, told: list[str]
) -> dict[str, list[UserFile]]:
    """Return the recordings of each split.

    layout: the tables of each split.
    told: a list to which warnings about the tables are appended.
    """
    field = settings.path_field
    found = dict[str, list[UserFile]]()
    opened = {
        split: [open_rows(path, path.name, view) for path in paths]
        for split, paths in layout.splits.items()
    }
    for table in itertools.chain.from_iterable(opened.values()):
        _check_columns(table, view.fields)
    told += describe_unread(opened, view.fields, settings, progress)
    for split, tables in opened.items():
        listed, missing = list[tuple[Path, str, str]](), []
        for rows in tables:
            told += rows.warnings
            for where, row in rows.read(view.fields):
                name = text_of(where, row, field, view.invalid_utf8, needed="path")
                path = _file(rows.path.parent, name)
                listed.append((path, name, view.target_of(where, row)))
                if not path.is_file():
                    missing.append((where, rows.path, name))
        if missing:
            raise _missing(missing)
        if not listed:
            raise UsageError(f"{tables[0].path} holds no recording")
        paths = [*dict.fromkeys(path for path, *_ in listed)]
        with FileStatCache(
            settings, "recordings", str(tables[0].path.absolute()), split
        ) as file_stat_cache:
            hashes = file_stat_cache.of_all(paths, file_sha256, progress, f"opening {split}")
        sha256 = dict(zip(paths, hashes, strict=True))
        found[split] = [UserFile(path, name, target, sha256[path]) for path, name, target in listed]
    return found


def _file(folder: Path, name: str) -> Path:
    """Return the path of a recording. The file may be named in another Unicode form than the row,
    as some systems change the form when they unpack an archive."""
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    paths = [folder / form for form in forms]
    return next((path for path in paths if path.is_file()), paths[0])


def _check_columns(table: Rows, fields: Mapping[str, str]) -> None:
    """Raise UsageError if a table has the layout or the names of columns of another program (the
    error says what to give), or lists segments of files."""
    path = table.path
    if path.suffix != ".parquet":
        with open_text(path) as file:
            line = file.readline(2**16).decode(errors="replace").removeprefix("\ufeff").strip()
        is_named = not {*fields}.isdisjoint(line.split("|"))
        if not is_named and re.fullmatch(r"[^,;\t{|\[]+\|.*", line):
            raise UsageError(
                f"{path} separates its columns by | and does not name them, as LJSpeech does: "
                f"{_TO_TABLE} {path} > {path.with_name('train.tsv')} makes a table"
            )
    refuse_known_names(str(path), fields, table.columns, _KNOWN)
    refuse_segments(table, fields)


def _repeated(recordings: Mapping[str, Sequence[UserFile]]) -> Iterator[str]:
    """Yield warnings about recordings that are listed twice in a split."""
    for split, of in recordings.items():
        counts, targets = Counter(one.name for one in of), dict[str, set[str]]()
        for one in of:
            targets.setdefault(one.name, set()).add(nfc(one.target))
        if torn := [name for name, all_targets in targets.items() if len(all_targets) > 1]:
            first, second, *_ = sorted(targets[torn[0]])
            yield (
                f"{len(torn):,} of {len(counts):,} recordings of {split} have rows that contradict "
                f"each other, such as {torn[0]}: {first!r} and {second!r}"
            )
        if twice := [name for name, count in counts.items() if count > 1]:
            yield (
                f"{len(twice):,} of {len(counts):,} recordings of {split} have several rows, such "
                f"as {twice[0]}: each row counts"
            )


def _missing(rows: Sequence[tuple[str, Path, str]]) -> UsageError:
    """Return the error for rows without a file. rows: location, table and path."""
    where, table, name = rows[0]
    path = table.parent / name
    what = "a folder" if path.is_dir() else "not there"
    near = None if path.is_dir() else nearest_path(path) or _elsewhere(table.parent, name)
    meant = f" (did you mean {near}?)" if near else ""
    more = f", in one of {len(rows):,} such rows" if len(rows) > 1 else ""
    return UsageError(
        f"{where}: {path} is {what}{meant}{more}. Paths are absolute, or seen from the folder of "
        "the table"
    )


def _elsewhere(folder: Path, name: str) -> Path | None:
    """Find the file `name` with slashes instead of backslashes, or in a subfolder of `folder`."""
    inside = (one / name for one in sorted(folder.iterdir()) if one.is_dir())
    paths = itertools.chain([folder / name.replace("\\", "/")], inside)
    return next((path for path in paths if path.is_file()), None)
