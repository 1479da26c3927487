"""Checks that the files and folders that a configuration names exist."""

import difflib
import glob
import json
import os
import re
from pathlib import Path

from configs.errors import UsageError
from configs.reading.patterns import is_pattern, matching
from configs.remote import ANY, NONE, check_place, is_remote
from configs.schema.config import Config
from configs.schema.data import Mixture
from configs.schema.pairs import ParallelText
from configs.schema.pictures import ImageFolder
from configs.schema.settings import field_metadata
from configs.schema.source import PreparedFolder, PreparedSet, UserFiles
from configs.schema.tokenizers import TokenizerFile

EXPORTED = "triform.json"
"""The description in a folder that export.py wrote. Its field `config` is the configuration."""

TOKENIZER = "tokenizer.json"
_DOWNLOAD = "download it first"
_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2|txz|tzst)\b", re.IGNORECASE)

ORIGINAL_TOKENIZER = "triform_tokenizer.json"
"""The tokenizer as the run had it, in an exported folder whose `TOKENIZER` is for transformers."""


def check_inputs(config: Config) -> None:
    """Raise `UsageError` if the user's data or tokenizer is missing, or is a file where a folder is
    needed, or the reverse. Whether an object store has it is not looked at."""
    data = config.data
    check_place("data.cache_dir=", data.cache_dir, NONE, "give a folder")
    if isinstance(data, UserFiles):
        _check_files(data)
    if isinstance(data, PreparedSet) and data.name is None:
        raise UsageError(
            "data.name is not given: say which set that TensorFlow Datasets prepared, "
            "--config.data.name=NAME"
        )
    if isinstance(data, PreparedFolder):
        check_place("data.data_dir=", data.data_dir, ANY, _DOWNLOAD)
    if isinstance(data, Mixture):
        if not data.parts:
            raise UsageError(
                "data.parts is not given: say what is mixed, --config.data.parts=python_stdlib,"
                "text_files:PATH,records:PATH"
            )
        for part in data.part_settings():
            if isinstance(part, UserFiles) and part.path is not None:
                _check_path("data.parts: ", part.path)
    tokenizer = getattr(data, "tokenizer", None)
    if isinstance(tokenizer, TokenizerFile):
        _check_tokenizer(tokenizer.path)
    if data.cache_dir is not None and os.path.isfile(data.cache_dir):
        raise UsageError(f"data.cache_dir={data.cache_dir} is a file: give a folder")


def check_pretrained(config: Config) -> None:
    """Raise `UsageError` if `train.initialize_from` has no model, or is None but LoRA is on."""
    source = config.train.initialize_from
    if source is None and config.train.lora.rank is not None:
        raise UsageError(
            "train.lora.rank changes a trained model, and none is given: say which, "
            "--config.train.initialize_from=FOLDER"
        )
    is_other = source is None or (os.path.exists(source) and not is_hugging_face(source))
    if config.train.ignore_fields and is_other:
        raise UsageError(
            "train.ignore_fields is for a folder of Hugging Face: with train.initialize_from="
            f"{'none' if source is None else source}, leave it out"
        )
    if source is None:
        return
    named = f"train.initialize_from={source}"
    check_place("train.initialize_from=", source, NONE, f"python checkpoint.py copy {source} DIR")
    if not os.path.exists(source):
        raise UsageError(
            f"{named} is not there{path_hint(source)}: give the workdir of a run, or a folder of "
            "Hugging Face on this disk (`hf download NAME --local-dir FOLDER` makes one)"
        )
    if source.endswith(".gguf"):
        raise UsageError(
            f"{named} is a file: make a folder of it, python export.py --from={source} "
            "--format=safetensors --out=FOLDER"
        )
    if not os.path.isdir(source):
        raise UsageError(f"{named} is a file: give its folder, {os.path.dirname(source) or '.'}")
    if is_exported(source):
        if config.train.initialize_step != "latest":
            raise UsageError(
                f"train.initialize_step is for workdirs, and {named} is exported: leave it out"
            )
        return
    if not is_hugging_face(source) and not os.path.exists(os.path.join(source, "config.json")):
        inside = glob.glob(f"{glob.escape(source)}/*/config.json")
        inside += glob.glob(f"{glob.escape(source)}/snapshots/*/config.json")
        hint = f", but {os.path.dirname(inside[0])} is" if inside else ""
        raise UsageError(
            f"{named} is neither the workdir of a run nor a folder of Hugging Face (config.json, "
            f"model.safetensors){hint}"
        )


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Return whether `folder` was written by export.py."""
    return os.path.isfile(os.path.join(folder, EXPORTED))


def tokenizer_file(folder: str | os.PathLike[str]) -> Path | None:
    """Return the file of the tokenizer of a workdir or an exported model, as the run had it; None
    without one."""
    files = (Path(folder) / name for name in (ORIGINAL_TOKENIZER, TOKENIZER))
    return next((file for file in files if file.is_file()), None)


def is_hugging_face(folder: str | os.PathLike[str]) -> bool:
    """Return whether `folder` has the format of Hugging Face's `save_pretrained`.

    Returns False for the workdir of a run, and for what export.py wrote.
    """
    if not os.path.isdir(folder) or os.path.isdir(os.path.join(folder, "checkpoints")):
        return False
    if is_exported(folder):
        return False
    if any(name.endswith((".safetensors", ".safetensors.index.json", ".bin"))
           for name in os.listdir(folder)):  # fmt: skip
        return True
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            return "model_type" in json.load(file)
    except (OSError, ValueError, TypeError):
        return False


def _check_files(data: UserFiles) -> None:
    path = data.path
    if path is None:
        if field_metadata(type(data).model_fields["path"]).get("required"):
            raise UsageError(f"data.path is not given: {data.missing_path()}")
    elif is_remote(path):
        check_place("data.path=", path, ANY, _DOWNLOAD)
    elif isinstance(data, ImageFolder):
        _check_folder(path)
    elif not (isinstance(data, ParallelText) and _is_prefix(path)):
        _check_path("data.path", path)


def _is_prefix(path: str) -> bool:
    """Return whether `path` is the beginning of files' names, such as NAME of NAME.en, NAME.de."""
    files = glob.iglob(f"{glob.escape(path)}.*")
    return not os.path.exists(path) and not is_pattern(path) and any(map(os.path.isfile, files))


def _check_path(field: str, path: str) -> None:
    """Raise `UsageError` unless `path` is a file that is not empty, a folder with files, or a glob
    that matches files.

    field: its name in messages.
    """
    named = f"{field}{'' if field.endswith(' ') else '='}{path}"
    check_place(named.removesuffix(path), path, ANY, _DOWNLOAD)
    if is_remote(path):
        return
    if os.path.isfile(path):
        if not os.path.getsize(path):
            raise UsageError(f"{named} is an empty file")
        _check_readable(named, path)
    elif os.path.isdir(path):
        _check_readable(named, path)
        if not any(files for _, _, files in os.walk(path)):
            raise UsageError(f"{named} is a folder without files")
    elif is_pattern(path):
        if not any(map(os.path.isfile, matching(path))):
            raise UsageError(f"{named}: no file matches{_relative_hint(path)}")
    elif os.path.exists(path):
        raise UsageError(f"{named} is no regular file: give a file, as it is read several times")
    else:
        raise UsageError(f"{named} is not there{path_hint(path)}")


def _check_folder(path: str) -> None:
    check_place("data.path=", path, ANY, _DOWNLOAD)
    if not os.path.isdir(path):
        reason = "is a file" if os.path.exists(path) else f"is not there{path_hint(path)}"
        shards = ""
        if _ARCHIVE.search(path):
            shards = ". Shards of WebDataset are read by data.source=webdataset_pictures"
        raise UsageError(
            f"data.path={path} {reason}: give a folder with a folder for each class{shards}"
        )
    _check_readable(f"data.path={path}", path)


def _check_tokenizer(path: str | None) -> None:
    if path is None:
        raise UsageError(
            "data.tokenizer.path is not given: say where the tokenizer.json is, "
            "--config.data.tokenizer.path=FILE, or use another data.tokenizer.kind"
        )
    check_place("data.tokenizer.path=", path, ANY, _DOWNLOAD)
    if is_remote(path):
        return
    if not os.path.isfile(path):
        reason = f"is not there{path_hint(path)}"
        if os.path.exists(path):
            reason = "is a folder" if os.path.isdir(path) else "is no regular file"
        raise UsageError(f"data.tokenizer.path={path} {reason}: give a tokenizer.json")
    _check_readable(f"data.tokenizer.path={path}", path)


def _check_readable(named: str, path: str) -> None:
    if not os.access(path, os.R_OK):
        raise UsageError(f"{named} can not be read: its permissions forbid it")


def nearest_path(path: str | os.PathLike[str]) -> str | None:
    """Return the existing path in the same folder with the name most similar to `path`, or None."""
    parent, name = os.path.split(os.path.normpath(path))
    try:
        names = {entry.casefold(): entry for entry in os.listdir(parent or ".")}
    except (OSError, ValueError):
        return None
    near = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.75)
    return os.path.join(parent, names[near[0]]) if near else None


def path_hint(path: str) -> str:
    """Return a hint for messages about `path`, which does not exist: a similar path, if any."""
    if os.path.islink(path):
        return f" (it is a link to {os.readlink(path)})"
    if near := nearest_path(path):
        return f" (did you mean {near}?)"
    return _relative_hint(path)


def _relative_hint(path: str) -> str:
    """Return a hint that `~` is not expanded, or which folder a relative path starts from."""
    if path.startswith("~"):
        return " (the shell expands no ~ here: write $HOME)"
    return "" if os.path.isabs(path) else f", seen from {os.getcwd()}"
