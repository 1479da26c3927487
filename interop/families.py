"""Lists the model families, and describes the model in a folder of any family."""

import json
from collections.abc import Collection
from pathlib import Path

from configs.errors import UsageError, blaming
from interop import (
    bart,
    bert,
    convnext,
    convnextv2,
    eurobert,
    gpt2,
    llama,
    ministral,
    mistral,
    qwen2,
    qwen3,
    resnet,
    siglip,
    t5gemma,
    vit,
)
from interop.description import Description
from interop.folder import Folder
from interop.harmless import check_config
from interop.tables import Table

MODULES = (
    llama,
    mistral,
    ministral,
    qwen2,
    qwen3,
    gpt2,
    bert,
    eurobert,
    vit,
    siglip,
    resnet,
    convnext,
    convnextv2,
    t5gemma,
)

FAMILIES = {one.name: one for one in (*(one.FAMILY for one in MODULES), *bart.FAMILIES)}
"""The family of each `model_type` in config.json. A model is exported as the first that has it."""


LAYERS = ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers", "depths")
"""The fields of config.json that count layers, in any family."""

USUAL_LAYERS = 256
"""Layers that a model may have without a look at its tensors."""


def table_of(family: str) -> Table:
    """Return the table that converts the weights of a family."""
    return FAMILIES[family].table


def describe(folder: str | Path | Folder, leave_out: Collection[str] = ()) -> Description:
    """Describe the model in `folder` in terms of our configuration.

    leave_out: as in `Folder`.

    Raises `configs.UsageError` if the folder is missing or damaged, if its family is unknown, or if
    our models do not support the value of a field, or do not know the field; the message names the
    field.
    """
    folder = folder if isinstance(folder, Folder) else Folder(folder, leave_out)
    with blaming(f"{folder.path} can't be read"):
        folder.config.require(quantization_config=[None])
        family = folder.config.text("model_type")
        if family not in FAMILIES:
            raise UsageError(
                f"{folder.config.path}: model_type={family} is no family that can be read: there "
                f"are {', '.join(FAMILIES)}"
            )
        _check_layers(folder)
        description = FAMILIES[family].describe(folder)
        check_config(folder.config, family)
    return description


def _check_layers(folder: Folder) -> None:
    """Raise `UsageError` if config.json counts far more layers than there are tensors, before
    anything is built for each of them."""
    count = len(folder.names)
    sections = {"": dict(folder.config)}
    sections |= {f"{name}.": value for name, value in folder.config if isinstance(value, dict)}
    for section, values in sections.items():
        for name in LAYERS:
            value = values.get(name)
            numbers = value if isinstance(value, list) else [value]
            layers = sum(one for one in numbers if type(one) is int)
            if layers > max(count, USUAL_LAYERS):
                raise UsageError(
                    f"{folder.config.path}: {section}{name}={json.dumps(value)[:60]} is more than "
                    f"the folder has tensors, {count:,}"
                )
