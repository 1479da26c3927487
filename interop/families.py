"""Lists the families, and tells which one a folder is of."""

from pathlib import Path

from configs.errors import UsageError
from interop import bert, gpt2, llama, vit
from interop.description import Description
from interop.folder import Folder
from interop.tables import Table

FAMILIES = {"gpt2": gpt2, "llama": llama, "bert": bert, "vit": vit}
"""By `model_type` of config.json: the module with the `TABLE` and the function `describe`."""


def table_of(family: str) -> Table:
    """Return the rows of a family."""
    return FAMILIES[family].TABLE


def describe(folder: str | Path | Folder) -> Description:
    """Describe the model that takes the weights of `folder`.

    Raises `configs.UsageError` for a folder that is missing or damaged, of another family, or with
    a field that our models do not support, with its name.
    """
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    folder.config.require(quantization_config=[None])
    family = folder.config.value("model_type")
    if family not in FAMILIES:
        raise UsageError(
            f"{folder.config.path}: model_type={family} is no family that can be read: there are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[family].describe(folder)
