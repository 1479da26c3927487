"""What a run takes over from the one that it begins with: the shape of its model, its tokenizer."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.reading.fields import unused_fields
from configs.reading.inputs import is_hugging_face
from configs.reading.overriding import Values, kind_of_section
from configs.reading.saved import NAME, read_config
from configs.reading.values import format_value
from configs.schema.config import Config
from configs.schema.settings import field_metadata

_OF_TRAINING = ("dropout", "stochastic_depth")
"""Fields of models that change nothing of what is computed of trained weights."""


@dataclass(frozen=True)
class InheritedFields:
    """Fields of a configuration that are as in another run, by path, and a line for the user where
    the run begins: one that goes on has told of them."""

    fields: Mapping[str, Any]
    message: str | None


def inherit_fields(
    values: Values, overrides: Mapping[str, str], workdir: str | None
) -> tuple[InheritedFields, ...]:
    """Puts the model and the tokenizer of the run that `train.initialize_from` names into `values`,
    which hold the recipe and `overrides` already; what `overrides` say themselves stays.

    A run that goes on in `workdir` takes its own, since the other one may be gone. Nothing is taken
    of Hugging Face's folders, whose settings are checked by `interop`, of a folder that is not
    there, and of a model that can't do what the run is for. Raises `UsageError` for a damaged
    config.json.
    """
    source = values.get("train", {}).get("initialize_from")
    goes_on = workdir is not None and os.path.exists(os.path.join(workdir, NAME))
    folder = workdir if goes_on else source
    if source is None or not _holds_run(folder):
        return ()
    origin = read_config(folder)
    if goes_on and origin.train.initialize_from is None:
        return ()
    model = _take_model(values, overrides, origin)
    tokenizer = _take_tokenizer(values, overrides, origin, None if goes_on else folder)
    return tuple(
        InheritedFields(
            new, None if goes_on else f"the {what} is that of {source}: {', '.join(told)}"
        )
        for what, (new, told) in (("model", model), ("tokenizer", tokenizer))
        if told
    )


def _holds_run(folder: str | None) -> bool:
    try:
        return os.path.exists(os.path.join(folder, NAME)) and not is_hugging_face(folder)
    except (TypeError, ValueError):  # no path at all: its own check says so
        return False


def _take_model(
    values: Values, overrides: Mapping[str, str], origin: Config
) -> tuple[dict[str, Any], list[str]]:
    """Puts the model of `origin` into `values`. Returns its fields that differ from those that were
    there, by path, and each in words."""
    model_output = kind_of_section(values, "task.name").model_output
    modality = kind_of_section(values, "data.source").modality
    theirs, kind = origin.model, type(origin.model)
    asked = overrides.get("model.architecture", theirs.architecture)
    if (
        model_output not in kind.outputs
        or modality not in kind.modalities
        or asked != theirs.architecture
    ):
        return {}, []
    kind_of_section(values, "model.architecture")  # there from here on
    ours, unused, dumped = values["model"], unused_fields(origin), theirs.model_dump()
    taken = {
        name: dumped[name]
        for name, info in kind.model_fields.items()
        if f"model.{name}" not in overrides
        and f"model.{name}" not in unused
        and name not in _OF_TRAINING
        and not field_metadata(info).mutable_on_resume
    }
    kept = {name: value for name, value in ours.items() if name in kind.model_fields}
    values["model"] = kept | taken
    changed = {name: value for name, value in taken.items() if kept.get(name, _ABSENT) != value}
    told = [
        f"model.{name}={format_value(value)}"
        + (f" instead of {format_value(ours[name])}" if name in ours else "")
        for name, value in changed.items()
    ]
    return {f"model.{name}": value for name, value in changed.items()}, told


def _take_tokenizer(
    values: Values, overrides: Mapping[str, str], origin: Config, folder: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Puts the tokenizer that `folder` keeps into `values`, or of a run that goes on (None) what
    its configuration says. Returns the fields, by path, and each in words."""
    owner = kind_of_section(values, "data.source")
    given = any(path.startswith("data.tokenizer.") for path in overrides)
    if given or "tokenizer" not in owner.model_fields:
        return {}, []
    theirs = getattr(origin.data, "tokenizer", None)
    taken = None if theirs is None else theirs.model_dump()
    if folder is not None:
        path = os.path.join(folder, "tokenizer.json")
        taken = {"kind": "file", "path": path} if os.path.isfile(path) else None
    if taken is None or taken == values["data"].get("tokenizer"):
        return {}, []
    values["data"]["tokenizer"] = taken
    told = [f"data.tokenizer.{name}={value}" for name, value in taken.items()]
    return {f"data.tokenizer.{name}": value for name, value in taken.items()}, told


_ABSENT = object()
