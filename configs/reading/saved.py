"""Writes and reads the configuration of a workdir (`config.json`), and compares configurations."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError
from configs.files import write_durably
from configs.reading import names
from configs.reading.fields import flatten, format_value, unused_fields
from configs.reading.inputs import (
    EXPORTED,
    check_pretrained,
    is_exported,
    is_hugging_face,
    nearest_path,
    tokenizer_file,
)
from configs.reading.validation import FLAG, build_config
from configs.schema.config import Config
from configs.schema.settings import field_metadata
from configs.schema.tokenizers import TokenizerFile

NAME = "config.json"


@dataclass(frozen=True)
class Difference:
    """A field whose value differs between two configurations.

    old, new: the values as text; "(not there)" if a configuration does not have the field.
    """

    field: str
    old: str
    new: str
    mutable_on_resume: bool

    def __str__(self) -> str:
        return f"{self.field} was {self.old}, is {self.new}"


def write_config(config: Config, workdir: str | Path) -> None:
    """Write `config.json` into the folder `workdir`, atomically and durably."""
    content = json.dumps(config.model_dump(), indent=2, allow_nan=False) + "\n"
    write_durably(Path(workdir) / NAME, content)


def read_config(workdir: str | Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Read and check the configuration that `write_config` wrote into `workdir`.

    overrides: new values, as text, by field path; the fields must be mutable on resume.

    Raises `UsageError` if the folder has no run, the file is damaged, a value is invalid, or an
    overridden field is not mutable.
    """
    path, overrides = Path(workdir) / NAME, overrides or {}
    if is_exported(workdir) or is_hugging_face(workdir):
        raise UsageError(f"{workdir} holds a model's weights, and no run: give --from={workdir}")
    try:
        values = _read_sections(path)
    except OSError as error:
        raise UsageError(_no_run(Path(workdir), error)) from None
    check_mutable(overrides, path)
    return build_config(values, overrides, source=str(path))


def read_exported_config(folder: str | os.PathLike[str]) -> Config:
    """Read the configuration of a folder that export.py wrote. Raises `UsageError` if it is
    damaged."""
    path = Path(folder) / EXPORTED
    values = _read_sections(path).get("config")
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: it has no section config")
    return build_config(values, {}, source=str(path))


def check_mutable(overrides: Iterable[str], path: str | Path) -> None:
    """Raise `UsageError` if a field of `overrides` is not mutable on resume. path: the file of its
    value, for the message."""
    for name in overrides:
        info = names.fields().get(name)
        if info is not None and not field_metadata(info).get("mutable_on_resume"):
            raise UsageError(f"{FLAG}{name} is fixed by {path}: it can not change for this model")


def with_workdir_tokenizer(config: Config, workdir: str | Path | None) -> Config:
    """Return `config` with the tokenizer's path replaced by the copy in `workdir`.

    Returns `config` unchanged if the original tokenizer still exists, or if there is no copy.
    """
    tokenizer = getattr(config.data, "tokenizer", None)
    if workdir is None or not isinstance(tokenizer, TokenizerFile) or tokenizer.path is None:
        return config
    own = tokenizer_file(workdir)
    if os.path.exists(tokenizer.path) or own is None:
        return config
    tokenizer = tokenizer.model_copy(update={"path": str(own)})
    data = config.data.model_copy(update={"tokenizer": tokenizer})
    return config.model_copy(update={"data": data})


def differences(old: Config, new: Config) -> list[Difference]:
    """Return the fields that differ between two configurations, in the order of the schema."""
    before, after = flatten(old), flatten(new)
    changed = []
    for path in dict.fromkeys([*before, *after]):
        was, now = (
            format_value(side[path].value) if path in side else "(not there)"
            for side in (before, after)
        )
        if was != now:
            metadata = field_metadata((after.get(path) or before[path]).info)
            changed.append(Difference(path, was, now, metadata.get("mutable_on_resume", False)))
    return changed


def check_workdir(config: Config, workdir: str | None, notify: Callable[[str], None]) -> bool:
    """Check that a run can start or resume in `workdir`. Return True for a new run, else False.

    A run resumes if `workdir` has a checkpoint. Otherwise it is new, and any field may change.

    notify: called with a message for each field that differs from the workdir's configuration.

    Raises `UsageError` if `workdir` is None, if a resumed run changes a field that is not mutable,
    or if the model that a new run is initialized from does not exist.
    """
    if workdir is None:
        raise UsageError("--workdir is missing: --workdir=DIR (the folder that this run writes)")
    if not (Path(workdir) / NAME).exists():
        check_pretrained(config)
        return True
    resumes = any(path.name.isdecimal() for path in Path(workdir).glob("checkpoints/*"))
    changed, unused = differences(read_config(workdir), config), unused_fields(config)
    if resumes:
        refuse_differences(workdir, changed)
        since = "since this workdir was last trained"
    else:
        check_pretrained(config)
        since = "no step was saved of the earlier"
    for difference in changed:
        if difference.field not in unused:  # such as train.steps, if train.epochs decides it
            notify(f"{difference} ({since})")
    return not resumes


def refuse_differences(workdir: str | Path, changed: list[Difference]) -> None:
    """Raise `UsageError`, with a list, if fields in `changed` are not mutable on resume."""
    refused = [str(difference) for difference in changed if not difference.mutable_on_resume]
    if refused:
        raise UsageError(
            f"{workdir} holds a run of another configuration: {'; '.join(refused)}. Go on with "
            f"the old values, or take another workdir (its weights alone: "
            f"{FLAG}train.initialize_from={workdir})"
        )


def _read_sections(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `UsageError` if it is damaged."""
    try:
        values = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
        )
    except ValueError as error:  # not UTF-8, or not JSON
        raise UsageError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: it holds {type(values).__name__}, not sections")
    return values


def _no_run(workdir: Path, error: OSError) -> str:
    if not os.path.exists(workdir):
        near = nearest_path(workdir)
        return f"workdir {workdir} is not there" + (f" (did you mean {near}?)" if near else "")
    if isinstance(error, FileNotFoundError):
        return f"workdir {workdir} holds no run: it has no {NAME}"
    return f"{workdir / NAME} can not be read: {error.strerror}"


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [name for name, _ in pairs]
    for name in keys:
        if keys.count(name) > 1:
            raise ValueError(f"{name!r} stands there twice")
    return dict(pairs)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
