"""The configuration that a workdir keeps: `config.json`."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError
from configs.files import write_durably
from configs.reading import names
from configs.reading.fields import flatten, unused_fields
from configs.reading.inputs import check_pretrained
from configs.reading.overriding import FLAG
from configs.reading.validation import build_config
from configs.reading.values import format_value
from configs.schema.config import Config
from configs.schema.settings import field_metadata
from configs.schema.tokenizers import TokenizerFile

NAME = "config.json"


@dataclass(frozen=True)
class Difference:
    """A field that differs; a value is "(not there)" where its section is of another kind."""

    field: str
    old: str
    new: str
    mutable_on_resume: bool

    def __str__(self) -> str:
        return f"{self.field} was {self.old}, is {self.new}"


def write_config(config: Config, workdir: str | Path) -> None:
    """Writes `config.json` into the folder `workdir`, whole or not at all, and to stay."""
    content = json.dumps(config.model_dump(), indent=2, allow_nan=False) + "\n"
    write_durably(Path(workdir) / NAME, content)


def read_config(workdir: str | Path, overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration that `write_config` left in `workdir`, checked anew.

    overrides: path to text, of fields that are free to change. Raises `UsageError` for a folder
    without a run, a damaged file, and fields that are wrong or not free.
    """
    path, overrides = Path(workdir) / NAME, overrides or {}
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text, object_pairs_hook=_no_name_twice, parse_constant=_not_finite)
    except OSError as error:
        raise UsageError(_no_run(Path(workdir), error)) from None
    except ValueError as error:  # no UTF-8, or no JSON
        raise UsageError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: it holds {type(values).__name__}, not sections")
    for one in overrides:
        info = names.fields().get(one)
        if info is not None and not field_metadata(info).mutable_on_resume:
            raise UsageError(f"{FLAG}{one} is fixed by {path}: it can not change for this workdir")
    return build_config(values, overrides, source=str(path))


def with_workdir_tokenizer(config: Config, workdir: str | Path | None) -> Config:
    """`config` that reads the tokenizer which `workdir` keeps, where `data.tokenizer.path` is gone:
    whoever has the workdir needs no other."""
    tokenizer = getattr(config.data, "tokenizer", None)
    if workdir is None or not isinstance(tokenizer, TokenizerFile) or tokenizer.path is None:
        return config
    own = Path(workdir) / "tokenizer.json"
    if os.path.exists(tokenizer.path) or not own.is_file():
        return config
    tokenizer = tokenizer.model_copy(update={"path": str(own)})
    data = config.data.model_copy(update={"tokenizer": tokenizer})
    return config.model_copy(update={"data": data})


def differences(old: Config, new: Config) -> list[Difference]:
    """The fields in which two configurations differ, in the order of the schema."""
    before, after = flatten(old), flatten(new)
    found = []
    for path in dict.fromkeys([*before, *after]):
        was, now = (
            format_value(side[path].value) if path in side else "(not there)"
            for side in (before, after)
        )
        if was != now:
            info = (after.get(path) or before[path]).info
            found.append(Difference(path, was, now, field_metadata(info).mutable_on_resume))
    return found


def check_workdir(config: Config, workdir: str | None, notify: Callable[[str], None]) -> bool:
    """Whether a run begins there, and does not go on. Raises `UsageError` where `workdir` is not
    given or holds a run with other settings than those that may change, which `notify` is told;
    and where what a new run is to begin with is not there. A run that never saved a step may begin
    anew with any settings."""
    if workdir is None:
        raise UsageError("--workdir is missing: --workdir=DIR (the folder that this run writes)")
    if not (Path(workdir) / NAME).exists():
        check_pretrained(config)
        return True
    begun = any(path.name.isdecimal() for path in Path(workdir).glob("checkpoints/*"))
    changed, unused = differences(read_config(workdir), config), unused_fields(config)
    if begun:
        refuse_differences(workdir, changed)
    else:
        check_pretrained(config)
    since = "since this workdir was last trained" if begun else "no step was saved of the earlier"
    for difference in changed:
        if difference.field not in unused:  # train.steps that follow from train.epochs
            notify(f"{difference} ({since})")
    return not begun


def refuse_differences(workdir: str | Path, found: list[Difference]) -> None:
    """Raises `UsageError` with every one of `found` that is not free to change on resume."""
    refused = [str(one) for one in found if not one.mutable_on_resume]
    if refused:
        raise UsageError(
            f"{workdir} holds a run of another configuration: {'; '.join(refused)}. Go on with "
            f"the old values, or take another workdir"
        )


def _no_run(workdir: Path, error: OSError) -> str:
    if not os.path.exists(workdir):
        return f"workdir {workdir} is not there"
    if isinstance(error, FileNotFoundError):
        return f"workdir {workdir} holds no run: it has no {NAME}"
    return f"{workdir / NAME} can not be read: {error.strerror}"


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names_seen = [name for name, _ in pairs]
        twice = next(name for name in names_seen if names_seen.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return values


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
