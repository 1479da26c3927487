"""The families that there are, and which one a folder is of."""

from pathlib import Path

from configs.errors import UsageError
from interop import bert, gpt2, llama, vit
from interop.description import Description
from interop.folder import Folder
from interop.tables import Table

FAMILIES = {"gpt2": gpt2, "llama": llama, "bert": bert, "vit": vit}
"""By `model_type` of config.json: the module with the `TABLE` and the function `describe`."""


def table_of(family: str) -> Table:
    """The rows of a family."""
    return FAMILIES[family].TABLE


def describe(folder: str | Path | Folder) -> Description:
    """What a model must be like to take the weights of `folder`.

    Raises `configs.UsageError` for a folder that is missing or damaged, of another family, or with
    a field that our models have nothing like: it is named.
    """
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    folder.config.demand(quantization_config=[None])
    kind = folder.config.value("model_type")
    if kind not in FAMILIES:
        raise UsageError(
            f"{folder.config.path}: model_type={kind} is no family that can be read: there are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[kind].describe(folder)


def special_tokens(folder: str | Path) -> dict[str, int]:
    """Ids of the special tokens of a folder's tokenizer, by what they are for: "mask", "bos",
    "eos", "cls", "sep", ...; nothing where its tokenizer_config.json names none."""
    names, ids = Folder(folder).other_json("tokenizer_config.json"), added_tokens(folder)
    found: dict[str, int] = {}
    for name, said in names or ():
        content = said["content"] if isinstance(said, dict) and "content" in said else said
        if name.endswith("_token") and isinstance(content, str) and content in ids:
            found[name.removesuffix("_token")] = ids[content]
    return found


def added_tokens(folder: str | Path) -> dict[str, int]:
    """Ids of the tokens that a folder's tokenizer.json has beside its model, by their text."""
    tokenizer = Folder(folder).other_json("tokenizer.json")
    added = [] if tokenizer is None else tokenizer.value("added_tokens", [])
    return {token["content"]: token["id"] for token in added}
