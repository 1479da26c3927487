"""The families that there are, and which one a folder is of."""

from pathlib import Path

from configs import UsageError
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
    folder = Folder(folder)
    names, tokenizer = (
        folder.other_json(name) for name in ("tokenizer_config.json", "tokenizer.json")
    )
    if names is None or tokenizer is None:
        return {}
    ids = {token["content"]: token["id"] for token in tokenizer.value("added_tokens", [])}
    found = {}
    for name, said in names:
        content = said["content"] if isinstance(said, dict) and "content" in said else said
        if name.endswith("_token") and isinstance(content, str) and content in ids:
            found[name.removesuffix("_token")] = ids[content]
    return found
