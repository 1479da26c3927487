"""Checks that a recipe fits the model in a folder, before the weights are read."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import UsageError, blaming
from configs.reading.inputs import TOKENIZER
from configs.schema.config import Config
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from interop.description import Description
from interop.families import describe
from interop.family import resolved
from interop.folder import CONFIG, PREPROCESSOR, Folder
from interop.json_fields import JsonFields
from interop.pointers import refuse_pointer

MODEL = "model."
"""Prefix of the names of fields of the section `model`."""

_HEAD_OF_TOKENS = ("tied_embeddings", "head_transform", "logit_soft_cap")
"""Settings of `model` that only a head for tokens uses."""

_MISSING = "(not there)"


def check_recipe(folder: str | Path, config: Config) -> None:
    """Check that the recipe `config` fits the model in `folder`.

    The section `model`, the tokenizer and the data sizes must match. Fields that do not change what
    the weights compute (dropout, scan_layers, ...) may differ. Fields of the head may differ if the
    run replaces the folder's head.

    Raises `configs.UsageError` as `describe` does. Also raises it if a field differs; the message
    names the fields that differ and the overrides to give.
    """
    with blaming(f"train.initialize_from={folder} can't be read"):
        _check_recipe(Folder(folder, config.train.ignore_fields), config)


def _check_recipe(opened: Folder, config: Config) -> None:
    folder = opened.path
    for name in config.train.ignore_fields:
        if name not in opened.left_out():
            raise UsageError(
                f"train.ignore_fields has {name}, which neither {CONFIG} nor {PREPROCESSOR} of "
                f"{folder} has"
            )
    found = describe(opened)
    holds = f"train.initialize_from={folder} holds a {found.family}"
    _check_use(found, config, holds)
    if config.train.initialize_step != "latest":
        raise UsageError(f"train.initialize_step is for workdirs, and {holds}: leave it out")
    needed = {**_model_fields(found, config), **_data_fields(folder, found, config)}
    given = {path: _value_of(config, path) for path in needed}
    differing = _differing(given, needed, config)
    if differing:
        values = ", ".join(f"{n} is {_text(given[n])}" for n in differing if given[n] != _MISSING)
        flags = " ".join(f"--config.{n}={shlex.quote(_text(needed[n]))}" for n in differing)
        raise UsageError(f"{holds}, which this recipe does not fit: {values}; give {flags}")


def check_image_shape(
    folder: str | Path, shape: tuple[int, int, int], found: Description | None = None
) -> None:
    """Raise `UsageError` unless the model in `folder` reads images of `shape`, the shape (height,
    width, channels) of the prepared data. found: the description of the model, if it was read."""
    found = found or describe(folder)
    theirs = found.data_spec.image_shape
    assert theirs is not None
    if found.any_image_size:
        theirs = (*shape[:2], theirs[2])
    if theirs != tuple(shape):
        shapes = [" x ".join(map(str, one)) for one in (theirs, shape)]
        raise UsageError(
            f"train.initialize_from={folder} sees pictures of {shapes[0]}, but the data has "
            f"{shapes[1]}: give --config.data.image_size={theirs[0]} "
            f"--config.data.channels={theirs[2]}"
        )


def _check_use(found: Description, config: Config, holds: str) -> None:
    """Raise `UsageError` if the model can't do the recipe's task."""
    name = found.settings["architecture"]
    kind = next(one for one in ARCHITECTURES if kind_name(one) == name)
    task, data = config.task, config.data
    if task.model_output not in kind.outputs or data.modality not in kind.modalities:
        raise UsageError(
            f"{holds}, which reads {_words(kind.modalities)} and gives {_words(kind.outputs)}, but "
            f"task.name={task.name} on data.source={data.source} needs "
            f"{_words([task.model_output])} of {_words([data.modality])}: take another recipe, or "
            "another model"
        )
    height, width, *_ = found.data_spec.image_shape or (1, 1)
    if height != width and not found.any_image_size:
        raise UsageError(f"{holds} of pictures of {height} x {width}, and here they are square")


def _model_fields(found: Description, config: Config) -> dict[str, Any]:
    """Return the required values of the fields of `model` that the recipe's task uses."""
    needed, classes = dict(found.settings), config.task.model_output == "classes"
    if classes:
        needed = {name: needed[name] for name in needed if name not in _HEAD_OF_TOKENS}
    elif "pooling" in needed:
        del needed["pooling"]
    return {f"model.{name}": value for name, value in needed.items()}


def _data_fields(folder: str | Path, found: Description, config: Config) -> dict[str, Any]:
    """Return the values that fields of `data` must have for the model in `folder`, by field name.

    Raises `UsageError` if the data needs the folder's tokenizer but the folder has none.
    """
    data: Any = config.data  # its fields depend on the source
    needed: dict[str, Any] = {}
    tokenizer, file = getattr(data, "tokenizer", None), Path(folder) / TOKENIZER
    refuse_pointer(file)
    if tokenizer is not None and (tokenizer.kind != "file" or tokenizer.path is None):
        if not file.is_file():
            raise UsageError(
                f"{file} is missing, and the model in {folder} reads no other tokens than its "
                "own: let transformers write it (AutoTokenizer.from_pretrained(...)"
                ".save_pretrained(...)), or name it where it is, --config.data.tokenizer.kind=file "
                f"--config.data.tokenizer.path=FILE"
            )
        needed |= {"data.tokenizer.kind": "file", "data.tokenizer.path": str(file)}
    elif tokenizer is not None and not _same_tokens(Path(tokenizer.path), file):
        needed["data.tokenizer.path"] = str(file)
    sizes = found.data_spec
    lengths = {"sequence_length": sizes.max_length}
    if data.modality == "text_pairs":
        lengths = {
            "max_source_length": sizes.max_source_length,
            "max_target_length": sizes.max_length,
        }
    for name, longest in lengths.items():
        if longest is not None and getattr(data, name) > longest:
            needed[f"data.{name}"] = longest
    if found.data_spec.image_shape is not None:
        height, _, channels = found.data_spec.image_shape
        if data.image_size is not None and not found.any_image_size:
            needed["data.image_size"] = height
        if data.channels is not None:
            needed["data.channels"] = channels
    return needed


def _same_tokens(ours: Path, theirs: Path) -> bool:
    """Return whether two tokenizer.json files have the same vocabulary; True if one is missing."""
    if not (ours.is_file() and theirs.is_file()):
        return True
    one, other = (JsonFields(path).section("model").get("vocab") for path in (ours, theirs))
    return one == other


def _differing(given: dict[str, Any], needed: Mapping[str, Any], config: Config) -> list[str]:
    """Return the paths of the fields to change. If the architecture differs, these include all
    fields of `model`."""
    if given["model.architecture"] != needed["model.architecture"]:
        return [p for p in needed if p.startswith("model.") or given[p] != needed[p]]
    ours = {f"model.{name}": value for name, value in config.model.model_dump().items()} | given
    fitting = {**ours, **needed}
    theirs = _with_defaults(fitting)

    def differs(path: str) -> bool:
        """Return whether the field would differ if all others fitted."""
        return _with_defaults({**fitting, path: given[path]})[path] != theirs[path]

    return [p for p in needed if given[p] != needed[p] and differs(p)]


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make settings comparable: those of `model` as `resolved` returns them."""
    own = {n.removeprefix(MODEL): value for n, value in settings.items() if n.startswith(MODEL)}
    return {**settings, **{f"{MODEL}{name}": value for name, value in resolved(own).items()}}


def _value_of(config: Config, path: str) -> Any:
    """Return the value of a field by its dotted name."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name, _MISSING)
    return value


def _words(names: Any) -> str:
    return " or ".join(name.replace("_", " ") for name in names)


def _text(value: Any) -> str:
    """Format a value for the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
