"""Loads the initial weights of a run from a folder: the whole model, or only its body."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.data_spec import DataSpec
from configs.errors import blaming
from configs.schema.config import Config
from interop.checking import check_image_shape, check_recipe
from interop.converting import Weights, read_weights
from interop.description import Description
from interop.families import describe, table_of
from interop.folder import CHAT_TEMPLATE, TOKENIZER_CONFIG, Folder

Tree = Any

_MASKS = ("[MASK]", "<mask>")
"""Usual texts of the mask token, in case tokenizer_config.json does not name it."""


def load_weights(
    folder: str | Path,
    config: Config,
    data_spec: DataSpec,
    shapes: Tree,
    statistics: Tree | None = None,
    *,
    separator: tuple[str, int] | None = None,
) -> Weights:
    """Load the initial weights of a run from `folder`; only the body if the run's head differs.

    `config`, `data_spec`, `shapes`, `statistics`: the run's recipe, data sizes, and trees of
        parameters and batch statistics (as in `read_weights`).
    `separator`: text and id of our separator. If the folder's tokenizer lacks it, its embedding is
        a copy of the embedding of the folder's end-of-text token.

    In masked language modelling, the embedding of our mask token is a copy of that of the folder's
    mask token.

    The messages include a note if the folder has a chat template but a recipe of conversations sets
    none, or if the recipe prepares pictures otherwise; and one for each field of
    `train.ignore_fields`. Raises `configs.UsageError` as `check_recipe` and `read_weights` do.
    """
    check_recipe(folder, config)
    opened = Folder(folder, config.train.ignore_fields)
    found = describe(opened)
    if data_spec.image_shape is not None:
        check_image_shape(folder, data_spec.image_shape, found)
    with blaming(f"train.initialize_from={folder} can't be read"):
        weights = read_weights(
            opened,
            shapes,
            statistics,
            scanned=getattr(config.model, "scan_layers", False),
            body_only=not _has_same_head(opened, found, data_spec),
            tokens_like=tokens_like(opened, config, data_spec, separator),
        )
    left_out = [
        f"{name} of {file} is left out, as train.ignore_fields says"
        for name, file in opened.left_out().items()
    ]
    unused = (*_unused_chat_template(opened, config), *_other_preparation(found, config))
    messages = (*weights.messages, *left_out, *unused)
    return replace(weights, messages=messages)


def _has_same_head(folder: Folder, found: Description, data_spec: DataSpec) -> bool:
    """Return whether the folder has the head that the run needs."""
    if data_spec.num_classes is not None or found.data_spec.num_classes is not None:
        same = data_spec.num_classes == found.data_spec.num_classes
        return same and folder.class_names() in (None, data_spec.classes or ())
    table = table_of(found.family)
    heads = {row.theirs for row in table.rows if row.is_head}
    whole = any(name.startswith(table.prefix) for name in folder.names)
    return whole or any(table.row_name(name) in heads for name in folder.names)


def tokens_like(
    folder: Folder, config: Config, data_spec: DataSpec, separator: tuple[str, int] | None
) -> dict[int, int]:
    """Map the ids of our separator and mask token to the ids of the folder's tokens whose
    embeddings they get, as `load_weights` describes."""
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


def _other_preparation(found: Description, config: Config) -> tuple[str, ...]:
    """Return a message if the recipe prepares pictures otherwise than the folder says."""
    data = config.data.model_dump()
    fields = {f"data.{n}={v}" for n, v in found.preparation.items() if data.get(n, v) != v}
    if not fields:
        return ()
    return (f"its pictures were prepared with {' '.join(sorted(fields))}, and here otherwise",)


def _unused_chat_template(folder: Folder, config: Config) -> tuple[str, ...]:
    """Return a message if the folder has a chat template that the recipe does not use."""
    if config.data.source != "conversations" or config.data.chat_template is not None:
        return ()
    file, tokenizer = folder.path / CHAT_TEMPLATE, folder.json_file(TOKENIZER_CONFIG)
    if file.is_file():
        flag = f'--config.data.chat_template="$(cat {shlex.quote(str(file))})"'
        return (f"its template of conversations is not taken: {flag} takes it",)
    if tokenizer is not None and tokenizer.value("chat_template", None) is not None:
        instead = "write it into a file, and give its text as --config.data.chat_template"
        return (f"the template of conversations in {tokenizer.path} is not taken: {instead}",)
    return ()
