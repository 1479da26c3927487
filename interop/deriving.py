"""Describes a folder that another project wrote as a model that our commands can use."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.inputs import TOKENIZER
from configs.reading.validation import build_config
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from data.codecs.chat import ChatTemplate
from data.codecs.tokenizers import SpecialTokens, Tokenizer
from interop.description import Description
from interop.exported import FOREIGN, Exported
from interop.families import describe
from interop.folder import CHAT_TEMPLATE, CONFIG, GENERATION, TOKENIZER_CONFIG, Folder
from interop.json_fields import JsonFields
from interop.pointers import refuse_pointer
from parallel.environment import guess_platform

TASKS = {
    "next_tokens": ("language_modeling", "text_files"),
    "missing_tokens": ("masked_language_modeling", "text_files"),
    "classes of text": ("classification", "table"),
    "classes of pictures": ("classification", "image_folder"),
}
"""The task and the data source for what a model gives."""

USUAL_CONTEXT = 2048
"""Tokens that a model of text can attend to, if its folder does not say."""

MOST_SERVED = 4096
"""Tokens of a prompt and its answer, at most, for which a server has room unless it is told
otherwise: models whose positions go far beyond it would need gigabytes for each slot."""


def derive(path: Path) -> tuple[Exported, Tokenizer | None]:
    """Return the description of a folder's model, a whole configuration and data sizes, and its
    tokenizer, None for a model of pictures.

    A model that continues text is one of conversations if it has a chat template. Raises
    `UsageError` if the folder is damaged, or holds no model that can be used on its own.
    """
    folder = Folder(path)
    found = describe(folder)
    use = _use(found, folder)
    task, source = TASKS[use]
    special, tokenizer = None, None
    if use == "classes of pictures":
        data, sizes = _of_pictures(found, folder)
    else:
        _require_tokenizer(path / TOKENIZER)
        special = _special_tokens(folder) if use == "next_tokens" else None
        tokenizer = load_tokenizer(path / TOKENIZER, special)
        data, sizes = _of_text(found, folder, tokenizer)
    if (count := found.data_spec.num_classes) is not None:
        names = folder.class_names() or ()
        numbered = tuple(f"LABEL_{number}" for number in range(count))
        sizes |= {"num_classes": count, "classes": names if len(names) == count else numbered}
    if use == "next_tokens" and (template := _chat_template(folder)) is not None:
        source, data["chat_template"] = "conversations", template
    values = {
        "task": {"name": task},
        "data": {"source": source, **data},
        "model": found.settings,
        "precision": {"parameter_dtype": _parameter_dtype(folder)},
    }
    if sizes.get("max_length", 0) > MOST_SERVED:
        values["serve"] = {"max_context": MOST_SERVED}
    config = build_config(values, {}, source=str(path / CONFIG))
    exported = Exported(
        format=FOREIGN,
        step=0,
        config=config.model_dump(mode="json"),
        data=DataSpec(**sizes).to_manifest(),
        metrics={},
        special_tokens=None if special is None else asdict(special),
    )
    return exported, tokenizer


def special_tokens_of(values: Mapping[str, Any] | None, where: Path) -> SpecialTokens | None:
    """Return what `Exported.special_tokens` holds. Raises `UsageError` if it is damaged; the
    message names the file `where`."""
    if values is None:
        return None
    fields = JsonFields(where, {"special_tokens": values}).nested("special_tokens")
    ends = fields.token_ids("ends")
    if not ends:
        fields.reject("ends", "at least one token must end a text")
    bos, eos = (fields.text(name, default=None) for name in ("bos", "eos"))
    return SpecialTokens(ends, bos=bos, eos=eos)


def load_tokenizer(path: Path, special: SpecialTokens | None) -> Tokenizer:
    """Read the tokenizer of a model. Raises `UsageError` if it is missing or damaged."""
    _require_tokenizer(path)
    try:
        return Tokenizer.load(path, special)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _require_tokenizer(path: Path) -> None:
    refuse_pointer(path)
    if not path.is_file():
        raise UsageError(
            f"{path} is missing, and the model reads no other tokens than its own: let "
            "transformers write it (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )


def _use(found: Description, folder: Folder) -> str:
    """Return the key of `TASKS` for a model. Raises `UsageError` if there is none."""
    name = found.settings["architecture"]
    kind = next(one for one in ARCHITECTURES if kind_name(one) == name)
    if "pictures" in kind.modalities:
        if found.data_spec.num_classes is None:
            raise UsageError(f"{folder.path} holds a {found.family} without a classifier")
        return "classes of pictures"
    if found.data_spec.num_classes is not None and "labelled_text" in kind.modalities:
        return "classes of text"
    for output in kind.outputs:
        if output in TASKS:
            return output
    raise UsageError(
        f"{folder.path} holds a {found.family}, which can't be used on its own: give it to a run "
        f"that fits it, --config.train.initialize_from={folder.path}"
    )


def _of_pictures(found: Description, folder: Folder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the section `data`, and the sizes, for a model of pictures."""
    height, width, channels = found.data_spec.require("image_shape")
    if height != width:
        raise UsageError(
            f"{folder.path} sees pictures of {height} x {width}, and here they are square"
        )
    data = {"image_size": height, "channels": channels, **found.preparation}
    return data, {"image_shape": (height, width, channels)}


def _of_text(
    found: Description, folder: Folder, tokenizer: Tokenizer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the section `data`, and the sizes, for a model of text."""
    length = found.data_spec.max_length or folder.config.positive_int(
        "max_position_embeddings", default=USUAL_CONTEXT
    )
    data = {
        "tokenizer": {"kind": "file", "path": str(folder.path / TOKENIZER)},
        "sequence_length": length,
    }
    framing = tokenizer.framed(np.empty(0, np.int32)).tolist()
    sizes = {
        "vocabulary_size": tokenizer.vocabulary_size,
        "max_length": length,
        "framing": tuple(framing) or None,
    }
    return data, sizes


def _parameter_dtype(folder: Folder) -> str:
    """Return the dtype for the parameters: bfloat16 if the folder has no other and the devices
    compute in it. The values of float16 need float32."""
    is_enough = folder.dtypes() == {"bfloat16"} and guess_platform() != "cpu"
    return "bfloat16" if is_enough else "float32"


def _special_tokens(folder: Folder) -> SpecialTokens:
    """Return what the tokens are for, by generation_config.json, config.json and
    tokenizer_config.json. Raises `UsageError` if no token ends a text."""
    named, texts = folder.special_tokens(), {n: text for text, n in folder.added_tokens().items()}
    generation = folder.json_file(GENERATION)
    ends = [named["eos"]] if "eos" in named else []
    for file in (generation, folder.config):
        given = () if file is None else file.token_ids("eos_token_id")
        if given:
            ends += given
            break
    ends = [end for end in dict.fromkeys(ends) if end in texts]
    if not ends:
        raise UsageError(
            f"{folder.path} does not say which token ends a text: {TOKENIZER_CONFIG} needs an "
            f"eos_token, or {CONFIG} an eos_token_id, that {TOKENIZER} has"
        )
    openings = [named["bos"]] if "bos" in named else folder.config.token_ids("bos_token_id")
    bos = texts.get(openings[0]) if openings else None
    return SpecialTokens(tuple(ends), bos=bos, eos=texts[ends[0]])


def _chat_template(folder: Folder) -> str | None:
    """Return the Jinja template of conversations; None if the folder has none. Raises `UsageError`
    if it is no Jinja."""
    file, config = folder.path / CHAT_TEMPLATE, folder.json_file(TOKENIZER_CONFIG)
    template = None if config is None else config.value("chat_template", None)
    if file.is_file():
        try:
            template = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is damaged: {error}") from None
    if isinstance(template, list):  # Several with names, of which this is the usual one.
        several = [one for one in template if isinstance(one, dict)]
        usual = (one.get("template") for one in several if one.get("name") == "default")
        template = next(usual, None)
    if not isinstance(template, str) or not template:
        return None
    try:
        ChatTemplate(template)
    except ValueError as error:
        raise UsageError(f"the chat template of {folder.path}: {error}") from None
    return template
