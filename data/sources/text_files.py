"""A source of the user's text: a file, a folder of files, or a glob. Each file is a document."""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.sources.documents import Document, Documents, TextFile, read_text_files, whole
from data.sources.files import find_files, name_below
from data.sources.opening import compressible, open_text
from data.sources.source import hold_out
from data.sources.splits import SPLITS

_TABLES = compressible(".jsonl", ".csv", ".tsv")
_JSON = compressible(".json")
_RECORDS = re.compile(rb"\s*(\[\s*\{|\{[^\n]*\}\s*\n\s*\{)")  # an array of objects, or one a line
_HEAD_BYTES = 2**16


def open_source(settings: Any) -> Documents:
    """Open the files at `data.path`, found by `files.find_files`, sorted by name.

    Without a validation split, `data.validation_fraction` of train is held out. If train has
    several files, whole files are held out, chosen by a hash of their names; the end of a single
    file is held out. Raises UsageError if a split has no text.
    """
    layout, root = find_files(settings)
    documents = {
        split: tuple(whole(file) for file in _read(split, paths, root, settings))
        for split, paths in layout.splits.items()
    }
    held_out = 0.0 if "validation" in documents else settings.validation_fraction
    if held_out:
        documents |= _hold_out(documents["train"], settings)
    return Documents("text_files", {s: documents[s] for s in SPLITS if s in documents},
                     settings.invalid_utf8, held_out, layout,
                     (*_tables_among(documents),))  # fmt: skip


def _read(split: str, paths: Sequence[Path], root: Path, settings: Any) -> list[TextFile]:
    """Return the files of `split` that contain text."""
    named = ((path, name_below(root, path)) for path in paths)
    files = read_text_files(named, settings.invalid_utf8, settings, str(root.absolute()), split)
    filled = [file for file in files if file.characters]
    if not filled:
        what = f"{paths[0]} is empty" if len(paths) == 1 else f"{root} holds no text"
        raise UsageError(f"{settings.path}: {what} for {split}")
    return filled


def _tables_among(documents: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """Yield a warning if some of the files are tables, whose names of fields would be learnt."""
    files = dict.fromkeys(document.file for of in documents.values() for document in of)
    tables = [file.name for file in files if _is_table(file.path)]
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


def _hold_out(train: tuple[Document, ...], settings: Any) -> dict[str, tuple[Document, ...]]:
    """Divide the training documents into the splits train and validation."""
    fraction = settings.validation_fraction
    if len(train) > 1:
        parts = hold_out(train, fraction, lambda document: document.file.name)
        return dict(zip(("train", "validation"), map(tuple, parts), strict=True))
    file = train[0].file
    cut = int(file.characters * (1 - fraction))
    if not 0 < cut < file.characters:
        raise UsageError(
            f"{settings.path}: of {file.characters} characters nothing is left for "
            f"{'validation' if cut else 'training'} with data.validation_fraction={fraction}. "
            "Give more text, or data.validation_fraction=0 for no validation"
        )
    return {
        "train": (Document(file, 0, cut),),
        "validation": (Document(file, cut, file.characters),),
    }
