"""Lists the model families, and describes the model in a folder of any family."""

from pathlib import Path

from configs.errors import UsageError
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


def table_of(family: str) -> Table:
    """Return the table that converts the weights of a family."""
    return FAMILIES[family].table


def describe(folder: str | Path | Folder) -> Description:
    """Describe the model in `folder` in terms of our configuration.

    Raises `configs.UsageError` if the folder is missing or damaged, if its family is unknown, or if
    our models do not support the value of a field; the message names the field.
    """
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    folder.config.require(quantization_config=[None])
    family = folder.config.text("model_type")
    if family not in FAMILIES:
        raise UsageError(
            f"{folder.config.path}: model_type={family} is no family that can be read: there are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[family].describe(folder)
