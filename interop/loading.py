"""Loads the weights that a run starts from out of a folder: all of them, or the body alone."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.data_spec import DataSpec
from configs.schema.config import Config
from interop.checking import check_image_shape, check_recipe
from interop.converting import Weights, read_weights
from interop.description import Description
from interop.families import describe, table_of
from interop.folder import Folder
from interop.json_fields import JsonFields

Tree = Any

CHAT_TEMPLATE = "chat_template.jinja"

_MASKS = ("[MASK]", "<mask>")
"""What tokenizers call the mask token, where their other files do not name it."""


def load_weights(
    folder: str | Path,
    config: Config,
    data_spec: DataSpec,
    shapes: Tree,
    *,
    separator: tuple[str, int] | None = None,
) -> Weights:
    """Load the weights that a run of `config` starts from, on data of this `data_spec`; only those
    of the body where the head differs. `shapes` are those of the run's parameters.

    A `separator` (text and id) that is not among their tokens starts as their end of text, the mask
    that masked language modelling adds as theirs. One of the messages is about a chat template of
    the folder that the recipe does not use.

    Raises `configs.UsageError` as `check_recipe` and `read_weights` do.
    """
    check_recipe(folder, config)
    opened = Folder(folder)
    found = describe(opened)
    if data_spec.image_shape is not None:
        check_image_shape(folder, data_spec.image_shape)
    weights = read_weights(
        folder,
        shapes,
        scanned=getattr(config.model, "scan_layers", False),
        body_only=not _has_same_head(opened, found, data_spec),
        tokens_like=_tokens_like(opened, config, data_spec, separator),
    )
    return replace(weights, messages=(*weights.messages, *_unused_chat_template(opened, config)))


def _has_same_head(folder: Folder, found: Description, data_spec: DataSpec) -> bool:
    """Return whether the folder holds the head that the run needs."""
    if data_spec.num_classes is not None or found.data_spec.num_classes is not None:
        same = data_spec.num_classes == found.data_spec.num_classes
        return same and _class_names(folder.config) in (None, data_spec.classes or ())
    table = table_of(found.family)
    heads = {row.theirs for row in table.rows if row.is_head}
    whole = any(name.startswith(table.prefix) for name in folder.names)
    return whole or any(table.row_name(name) in heads for name in folder.names)


def _class_names(config: JsonFields) -> tuple[str, ...] | None:
    """Return the names of their classes, None where these are only numbers."""
    labels = config.section("id2label")
    numbers = list(map(str, range(len(labels))))
    if not labels or labels.keys() != set(numbers):
        return None
    names = tuple(str(labels[number]) for number in numbers)
    return None if all(name == f"LABEL_{n}" for n, name in enumerate(names)) else names


def _tokens_like(
    folder: Folder, config: Config, data_spec: DataSpec, separator: tuple[str, int] | None
) -> dict[int, int]:
    """Return for ids of tokens that they do not have the id of theirs with the same role."""
    special, added, like = folder.special_tokens(), folder.added_tokens(), {}
    ends = [special[name] for name in ("eos", "sep", "bos") if name in special]
    masks = [special["mask"]] if "mask" in special else []
    masks += [added[name] for name in _MASKS if name in added]
    if separator is not None and separator[0] not in added and ends:
        like[separator[1]] = ends[0]
    if config.task.model_output == "missing_tokens" and masks:
        assert data_spec.vocabulary_size is not None
        like[data_spec.vocabulary_size] = masks[0]
    return like


def _unused_chat_template(folder: Folder, config: Config) -> tuple[str, ...]:
    """Return a message about their chat template where a recipe of conversations uses none."""
    if config.data.source != "conversations" or config.data.chat_template is not None:
        return ()
    file, tokenizer = folder.path / CHAT_TEMPLATE, folder.json_file("tokenizer_config.json")
    if file.is_file():
        flag = f'--config.data.chat_template="$(cat {shlex.quote(str(file))})"'
        return (f"its template of conversations is not taken: {flag} takes it",)
    if tokenizer is not None and tokenizer.value("chat_template", None) is not None:
        instead = "write it into a file, and give its text as --config.data.chat_template"
        return (f"the template of conversations in {tokenizer.path} is not taken: {instead}",)
    return ()
