"""Sources of the user's recordings, listed in tables: a row is an audio file and its target (a
transcript or a label)."""

import codecs
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.reading.inputs import nearest_path
from data.cache import digest
from data.classes import (
    alike,
    class_names,
    classes_of,
    describe_joined_labels,
    is_no_value,
    many,
    no_values,
)
from data.codecs.sound import Waveform, decode_sound
from data.file_stat_cache import FileStatCache
from data.forms import nfc
from data.sources.columns import describe_unread, refuse_segments
from data.sources.files import file_sha256, find_files, is_hidden, read_file
from data.sources.opening import open_text
from data.sources.records import JSON_SUFFIXES, TABLE_SUFFIXES, listed
from data.sources.source import MadeExamples, RawSplits, copies, hold_out
from data.sources.splits import SPLITS, Layout
from data.sources.tables import Rows, listed_names, open_rows

_KNOWN = {
    "data.path_field": ("file_name", "audio_filepath", "audio_path", "audio", "file", "wav"),
    "data.text_field": ("transcription", "transcript", "sentence", "normalized_text"),
    "data.label_field": ("labels", "class", "category", "intent"),
}
"""Names of columns in the manifests of other programs, by the setting that chooses the column."""

_TO_TABLE = r"""awk -F'|' 'BEGIN {print "path\ttext"} {print "wavs/" $1 ".wav\t" $NF}'"""


@dataclass(frozen=True)
class Recording:
    """A recording: its file, its path as written in the table (`name`), its transcript or label
    (`target`), and the hash of its file."""

    path: Path
    name: str
    target: str
    sha256: str


@dataclass(frozen=True)
class SoundManifest:
    """A source of the recordings listed in tables. They are read from their files and not copied.

    recordings: the recordings of each split, by the split's name.
    classes: the names of the classes; None if recordings have transcripts.
    warnings: messages for the user.
    held_out: share of the training recordings that was held out for validation.
    layout: how the tables were assigned to splits.
    """

    name: str
    recordings: Mapping[str, Sequence[Recording]]
    classes: tuple[str, ...] | None
    warnings: tuple[str, ...]
    held_out: float
    layout: Layout[Path]

    def source_key(self) -> dict[str, Any]:
        files = {
            split: digest([[one.name, one.target, one.sha256] for one in recordings])
            for split, recordings in self.recordings.items()
        }
        return {"files": files, "classes": self.classes}

    def random_access(self) -> RawSplits:
        return {split: MadeExamples(of, self._example) for split, of in self.recordings.items()}

    def _example(self, one: Recording) -> dict[str, Any]:
        found = {"sound": partial(_decode, one.path), "name": one.name, "path": str(one.path)}
        if self.classes is None:
            return found | {"text": one.target}
        return found | {"label": self.classes.index(one.target)}


def open_transcripts(settings: Any) -> SoundManifest:
    """Open the recordings in the tables at `data.path`, with their transcripts.

    Without a validation split, `data.validation_fraction` of the recordings is held out, chosen by
    a hash of each path as written in the table. Raises UsageError, for instance if an audio file is
    missing.
    """
    layout, told = _find_tables(settings), list[str]()
    found = _read(layout, settings, settings.text_field, "data.text_field", told)
    recordings, share = _cut(found, settings)
    warnings = [*told, *_copies(recordings)]
    for split, of in recordings.items():
        missing = [one.target for one in of if is_no_value(one.target)]
        warnings += no_values(missing, f"{len(of):,} transcripts of {split}")
    return SoundManifest("sound_transcripts", recordings, None, tuple(warnings), share, layout)


def open_labels(settings: Any) -> SoundManifest:
    """Open the recordings in the tables at `data.path` with their labels, like
    `open_transcripts`."""
    layout, told = _find_tables(settings), list[str]()
    found = _read(layout, settings, settings.label_field, "data.label_field", told)
    class_of = classes_of(one.target for of in found.values() for one in of)
    found = {
        split: [replace(one, target=class_of[one.target]) for one in of]
        for split, of in found.items()
    }
    recordings, share = _cut(found, settings)
    labels = {split: {one.target for one in of} for split, of in recordings.items()}
    is_cut = "validation" in recordings and "validation" not in found
    classes = class_names(
        labels, things="recording", validation_is_cut=is_cut, notes=describe_joined_labels(class_of)
    )
    warnings = [*told, *_copies(recordings)]
    warnings += [*describe_joined_labels(class_of), *alike(classes)]
    warnings += many(classes, sum(map(len, recordings.values())), "recordings")
    if lost := sorted(set(classes) - labels["train"]):
        warnings.append(f"every recording of {listed_names(lost)} is held out: training hears none")
    return SoundManifest("sound_labels", recordings, classes, tuple(warnings), share, layout)


def _read(
    layout: Layout[Path], settings: Any, target: str, setting: str, told: list[str]
) -> dict[str, list[Recording]]:
    """Return the recordings of each split.

    layout: the tables of each split.
    target: the field of the transcript or label.
    setting: the setting that names this field.
    told: a list to which warnings about the tables are appended.
    """
    found, fields = dict[str, list[Recording]](), {settings.path_field: "data.path_field"}
    fields[target] = setting
    opened = {
        split: [_open(table, fields, settings) for table in tables]
        for split, tables in layout.splits.items()
    }
    told += describe_unread(opened, fields, settings)
    for split, tables in opened.items():
        found[split], missing = [], []
        with FileStatCache(
            settings, "recordings", str(tables[0].path.absolute()), split
        ) as file_stat_cache:
            for rows in tables:
                told += rows.warnings
                for where, name, text in rows.recordings(target, setting):
                    path = _file(rows.path.parent, name)
                    if not path.is_file():
                        missing.append((where, rows.path, name))
                    elif not missing:
                        sha256 = file_stat_cache.of(path, file_sha256)
                        found[split].append(Recording(path, name, text, sha256))
        if missing:
            raise _missing(missing)
        if not found[split]:
            raise UsageError(f"{tables[0].path} holds no recording")
    return found


def _open(table: Path, fields: Mapping[str, str], settings: Any) -> Rows:
    """Return the rows of a table. Raises UsageError if it lacks one of `fields`, in another
    program's layout, or lists segments of files."""
    _check_columns(table, fields)
    rows = open_rows(table, table.name, settings.path_field, settings.invalid_utf8)
    refuse_segments(rows, fields)
    return rows


def _file(folder: Path, name: str) -> Path:
    """Return the path of a recording. The file may be named in another Unicode form than the row,
    as some systems change the form when they unpack an archive."""
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    paths = [folder / form for form in forms]
    return next((path for path in paths if path.is_file()), paths[0])


def _check_columns(table: Path, fields: Mapping[str, str]) -> None:
    """Raise UsageError if a table lacks some of the `fields` and has the layout or the names of
    columns of another program; the error says what to give.

    fields: the names of the needed columns, each with the setting that chooses it.
    """
    if table.suffix == ".parquet":
        return
    with open_text(table) as file:
        first = file.readline(2**16)
        if first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            first = (first + file.read(2**16)).partition(b"}")[0]  # the first row of an array
    line = first.decode(errors="replace").removeprefix("\ufeff").strip()
    is_named = not {*fields}.isdisjoint(line.split("|"))
    if not is_named and re.fullmatch(r"[^,;\t{|]+\|.*", line):
        raise UsageError(
            f"{table} separates its columns by | and does not name them, as LJSpeech does: "
            f"{_TO_TABLE} {table} > {table.with_name('train.tsv')} makes a table"
        )
    names = {name.strip(' "\r'): None for name in re.split("[,\t]", line)}
    if line.startswith(("{", "[")):
        names = dict.fromkeys(re.findall(r'"([^"]+)"\s*:', line))
    missing = {field: setting for field, setting in fields.items() if field not in names}
    known = {s: next((n for n in _KNOWN[s] if n in names), None) for s in missing.values()}
    if missing and all(known.values()):
        meant = " and ".join(f"{setting}={name}" for setting, name in known.items())
        raise UsageError(
            f"{table} has no field {' and no field '.join(map(repr, missing))}, but "
            f"{listed_names(names)}: did you mean {meant}?"
        )


def _find_tables(settings: Any) -> Layout[Path]:
    """Return the tables of each split. Inside of the folders of a folder, which may hold other
    tables beside the recordings, they are looked for only if the folder holds none itself."""
    path, kinds = Path(settings.path).expanduser(), listed(TABLE_SUFFIXES)
    if path.is_file() and not path.name.endswith((*TABLE_SUFFIXES, *JSON_SUFFIXES)):
        raise UsageError(f"{path}: recordings are listed in {kinds}")
    beside = path.iterdir() if path.is_dir() else ()
    is_flat = any(map(_is_table, (p for p in beside if p.is_file() and not is_hidden(p.name))))
    layout, _ = find_files(
        settings, lambda file: _is_table(file) and (not is_flat or file.parent == path)
    )
    if not layout.splits["train"]:
        raise UsageError(f"{settings.path} holds no table: recordings are listed in {kinds}")
    return layout


def _is_table(path: Path) -> bool:
    return path.name.endswith(TABLE_SUFFIXES)


def _cut(
    found: Mapping[str, list[Recording]], settings: Any
) -> tuple[dict[str, list[Recording]], float]:
    """Hold out a validation split if there is none. Return the splits, and the share held out."""
    recordings, share = dict(found), 0.0
    if "validation" not in found and settings.validation_fraction:
        share = settings.validation_fraction
        train, validation = hold_out(found["train"], share, lambda one: one.name)
        recordings |= {"train": train, "validation": validation}
    return {split: recordings[split] for split in SPLITS if recordings.get(split)}, share


def _copies(recordings: Mapping[str, Sequence[Recording]]) -> Iterator[str]:
    """Yield warnings about recordings that are listed twice in a split, or are both in training and
    held out."""
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
    yield from copies(recordings, "recordings")


def _decode(path: Path, sample_rate: int, most_seconds: float | None = None) -> Waveform:
    return decode_sound(read_file(path), sample_rate, most_seconds=most_seconds)


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
