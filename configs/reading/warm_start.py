"""Copies the model settings and the tokenizer of the run that a new run is initialized from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from configs.reading.fields import format_value, unused_fields
from configs.reading.inputs import is_exported, is_hugging_face, tokenizer_file
from configs.reading.saved import NAME, read_config, read_exported_config
from configs.reading.validation import Values, kind_of_section
from configs.schema.config import Config
from configs.schema.settings import field_metadata
from configs.schema.source import Source
from configs.schema.task import TaskSettings

_TRAINING_ONLY = ("dropout", "stochastic_depth")
"""Model fields that are not inherited, because they only matter in training."""


@dataclass(frozen=True)
class InheritedFields:
    """Fields that are inherited from another run: path to value.

    message: a line for the user that lists them; None if the run resumes.
    """

    fields: Mapping[str, Any]
    message: str | None


def inherit_fields(
    values: Values, overrides: Mapping[str, str], workdir: str | None
) -> tuple[InheritedFields, ...]:
    """Copy the model and tokenizer settings of the run `train.initialize_from` into `values`.

    values: the recipe's values with `overrides` applied; changed in place. Overridden fields keep
    their values. The run is a workdir or a folder that export.py wrote. A run that resumes in
    `workdir` inherits from its own config.json instead, because the other run may no longer exist.

    Nothing is inherited from a Hugging Face folder (`interop` checks its settings) or a missing
    folder. A model that does not fit the task is not inherited. Raises `UsageError` if config.json
    is damaged.
    """
    source = values.get("train", {}).get("initialize_from")
    resumes = workdir is not None and os.path.exists(os.path.join(workdir, NAME))
    folder: Any = workdir if resumes else source
    if source is None or not _holds_run(folder):
        return ()
    origin = read_exported_config(folder) if is_exported(folder) else read_config(folder)
    if resumes and origin.train.initialize_from is None:
        return ()
    model = _inherit_model(values, overrides, origin)
    tokenizer = _inherit_tokenizer(values, overrides, origin, None if resumes else folder)
    return tuple(
        InheritedFields(
            changed, None if resumes else f"the {part} is that of {source}: {', '.join(words)}"
        )
        for part, (changed, words) in (("model", model), ("tokenizer", tokenizer))
        if words
    )


def _holds_run(folder: Any) -> bool:
    try:
        if is_exported(folder):
            return True
        return os.path.exists(os.path.join(folder, NAME)) and not is_hugging_face(folder)
    except (TypeError, ValueError):  # not a path: the check of the field itself reports it
        return False


def _inherit_model(
    values: Values, overrides: Mapping[str, str], origin: Config
) -> tuple[dict[str, Any], list[str]]:
    """Copy the model settings of `origin` into `values`, in place.

    Returns the fields that changed (path to value), and a description of each change.
    """
    task = cast(type[TaskSettings], kind_of_section(values, "task.name"))
    data = cast(type[Source], kind_of_section(values, "data.source"))
    theirs, kind = origin.model, type(origin.model)
    fits = task.model_output in kind.outputs and data.modality in kind.modalities
    if not fits or overrides.get("model.architecture", theirs.architecture) != theirs.architecture:
        return {}, []
    kind_of_section(values, "model.architecture")  # adds a missing section
    ours, unused, dumped = values["model"], unused_fields(origin), theirs.model_dump()
    inherited = {
        name: dumped[name]
        for name, info in kind.model_fields.items()
        if f"model.{name}" not in overrides
        and f"model.{name}" not in unused
        and name not in _TRAINING_ONLY
        and not field_metadata(info).get("mutable_on_resume")
    }
    kept = {name: value for name, value in ours.items() if name in kind.model_fields}
    values["model"] = kept | inherited
    changed = {
        name: value for name, value in inherited.items() if kept.get(name, _MISSING) != value
    }
    words = [
        f"model.{name}={format_value(value)}"
        + (f" instead of {format_value(ours[name])}" if name in ours else "")
        for name, value in changed.items()
    ]
    return {f"model.{name}": value for name, value in changed.items()}, words


def _inherit_tokenizer(
    values: Values, overrides: Mapping[str, str], origin: Config, folder: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Copy the tokenizer settings of a run into `values`, in place.

    folder: the workdir of the other run, which contains `tokenizer.json`; None if the run resumes
        and its own configuration `origin` has the settings.

    Returns the fields that changed (path to value), and a description of each.
    """
    kind = kind_of_section(values, "data.source")
    given = any(path.startswith("data.tokenizer.") for path in overrides)
    if given or "tokenizer" not in kind.model_fields:
        return {}, []
    theirs = getattr(origin.data, "tokenizer", None)
    inherited = None if theirs is None else theirs.model_dump()
    if folder is not None:
        path = tokenizer_file(folder)
        inherited = {"kind": "file", "path": str(path)} if path is not None else None
    if inherited is None or inherited == values["data"].get("tokenizer"):
        return {}, []
    values["data"]["tokenizer"] = inherited
    changed = {f"data.tokenizer.{name}": value for name, value in inherited.items()}
    return changed, [f"{path}={value}" for path, value in changed.items()]


_MISSING = object()
