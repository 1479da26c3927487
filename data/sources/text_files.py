"""Reads the user's text: a file, a folder of files, or a glob. Each file is a document."""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.progress import Progress
from data.sources.documents import Document, opened_documents, read_text_files
from data.sources.files import find_files, name_below
from data.sources.opening import open_text
from data.sources.rows import Opened, View
from data.sources.source import hold_out_validation
from data.sources.suffixes import compressible

_TABLES = compressible(".jsonl", ".csv", ".tsv")
_JSON = compressible(".json")
_RECORDS = re.compile(rb"\s*(\[\s*\{|\{[^\n]*\}\s*\n\s*\{)")  # an array of objects, or one a line
_HEAD_BYTES = 2**16


def open_files(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the files at `data.path`, found by `files.find_files`, sorted by name.

    Without a validation split, `data.validation_fraction` of train is held out. If train has
    several files, whole files are held out, chosen by a hash of their names; the end of a single
    file is held out. Raises UsageError if a split has no text.
    """
    layout, root = find_files(settings)
    documents = {
        split: _read(split, paths, root, settings, progress)
        for split, paths in layout.splits.items()
    }
    fraction = settings.validation_fraction
    if fraction and "validation" not in documents and len(documents["train"]) == 1:
        documents |= _cut(documents["train"][0], settings)
    else:
        documents, fraction = hold_out_validation(documents, settings)
    return opened_documents(
        documents,
        fraction,
        view,
        invalid_utf8=settings.invalid_utf8,
        layout=layout,
        warnings=tuple(_tables_among(documents)),
    )


def _read(
    split: str, paths: Sequence[Path], root: Path, settings: Any, progress: Progress
) -> list[Document]:
    """Return the files of `split` that contain text."""
    files = read_text_files(
        {path: name_below(root, path) for path in paths},
        settings.invalid_utf8,
        settings,
        *(str(root.absolute()), split),
        progress=progress,
        stage=f"opening {split}",
    )
    if not files:
        what = f"{paths[0]} is empty" if len(paths) == 1 else f"{root} holds no text"
        raise UsageError(f"{settings.path}: {what} for {split}")
    return files


def _tables_among(documents: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """Yield a warning if some of the files are tables, whose names of fields would be learnt."""
    files = {one.path: one.name for of in documents.values() for one in of}
    tables = [name for path, name in files.items() if _is_table(path)]
    if tables:
        what = f"{tables[0]} is"
        if len(files) > 1:
            what = f"{len(tables):,} of {len(files):,} files are tables, such as {tables[0]}, and"
        yield (
            f"{what} read as plain text, with the names of fields and all signs between them; to "
            "read the texts in a field: --config.data.source=records"
        )


def _is_table(path: Path) -> bool:
    if not path.name.endswith(_JSON):
        return path.name.endswith(_TABLES)
    with open_text(path) as file:
        return _RECORDS.match(file.peek(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8)) is not None


def _cut(file: Document, settings: Any) -> dict[str, list[Document]]:
    """Divide a document into the splits train and validation, which is its end."""
    fraction = settings.validation_fraction
    cut = int(file.stop * (1 - fraction))
    if not 0 < cut < file.stop:
        raise UsageError(
            f"{settings.path}: of {file.stop} characters nothing is left for "
            f"{'validation' if cut else 'training'} with data.validation_fraction={fraction}. "
            "Give more text, or data.validation_fraction=0 for no validation"
        )
    return {"train": [replace(file, stop=cut)], "validation": [replace(file, start=cut)]}
