"""What a run begins with of a folder: how much of it this run has a use for."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.data_spec import DataSpec
from configs.schema.config import Config
from interop.checking import check, check_pictures
from interop.converting import Weights, read
from interop.description import Description
from interop.families import added_tokens, describe, special_tokens, table_of
from interop.folder import Folder
from interop.json_fields import JsonFields

Tree = Any

TEMPLATE = "chat_template.jinja"

_MASKS = ("[MASK]", "<mask>")
"""What tokenizers call the mask, where no other file of theirs says it."""


def start(
    folder: str | Path,
    config: Config,
    data_spec: DataSpec,
    shapes: Tree,
    *,
    separator: tuple[str, int] | None = None,
) -> Weights:
    """The weights that a run of `config` begins with, on data of this `data_spec`; of a model
    whose head is another one its body alone. `shapes` are those of the run's parameters.

    Of the tokens that the folder does not know the `separator`, its text and its number, begins as
    their end of a text, and the mask that masked language modelling adds as theirs. A template of
    conversations that the folder has and the recipe does not take is told.

    Raises `configs.UsageError` as `check` and `read` do.
    """
    check(folder, config)
    opened = Folder(folder)
    found = describe(opened)
    if data_spec.image_shape is not None:
        check_pictures(folder, data_spec.image_shape)
    weights = read(
        folder,
        shapes,
        scanned=getattr(config.model, "scan_layers", False),
        body_only=not _same_head(opened, found, data_spec),
        tokens_like=_tokens_like(folder, config, data_spec, separator),
    )
    return replace(weights, notes=(*weights.notes, *_template_left(opened, config)))


def _same_head(folder: Folder, theirs: Description, ours: DataSpec) -> bool:
    """Whether what their model is read out with is what ours is."""
    if ours.num_classes is not None or theirs.data_spec.num_classes is not None:
        same = ours.num_classes == theirs.data_spec.num_classes
        return same and _class_names(folder.config) in (None, ours.classes or ())
    table = table_of(theirs.family)
    heads = {row.theirs for row in table.rows if row.of_head}
    whole = any(name.startswith(table.prefix) for name in folder.names)
    return whole or any(table.short(name) in heads for name in folder.names)


def _class_names(config: JsonFields) -> tuple[str, ...] | None:
    """The names of their classes; None where they have none but numbers."""
    said = config.section("id2label")
    numbers = list(map(str, range(len(said))))
    if not said or said.keys() != set(numbers):
        return None
    names = tuple(str(said[number]) for number in numbers)
    return None if all(name == f"LABEL_{n}" for n, name in enumerate(names)) else names


def _tokens_like(
    folder: str | Path,
    config: Config,
    data_spec: DataSpec,
    separator: tuple[str, int] | None,
) -> dict[int, int]:
    """For tokens that they do not have the one of theirs that has the same use."""
    special, added, like = special_tokens(folder), added_tokens(folder), {}
    ends = [special[name] for name in ("eos", "sep", "bos") if name in special]
    masks = [special[name] for name in ("mask",) if name in special]
    masks += [added[name] for name in _MASKS if name in added]
    if separator is not None and separator[0] not in added and ends:
        like[separator[1]] = ends[0]
    if config.task.model_output == "missing_tokens" and masks:
        like[data_spec.vocabulary_size] = masks[0]
    return like


def _template_left(folder: Folder, config: Config) -> tuple[str, ...]:
    """A line about their template of conversations, where a recipe of conversations has none."""
    if config.data.source != "conversations" or config.data.chat_template is not None:
        return ()
    file, told = folder.path / TEMPLATE, folder.other_json("tokenizer_config.json")
    if file.is_file():
        flag = f'--config.data.chat_template="$(cat {shlex.quote(str(file))})"'
        return (f"its template of conversations is not taken: {flag} takes it",)
    if told is not None and told.value("chat_template", None) is not None:
        taking = "write it into a file, and give its text as --config.data.chat_template"
        return (f"the template of conversations in {told.path} is not taken: {taking}",)
    return ()
