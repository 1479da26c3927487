"""Whether a recipe describes the model whose weights are in a folder, before any is read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs import UsageError
from interop.families import describe
from model import feed_forward_width

_OF_TOKENS = ("tied_embeddings", "head_transform", "logit_soft_cap")
"""Settings that only matter to a model that is read out as tokens."""


def check(
    folder: str | Path,
    settings: Mapping[str, Any],
    sizes: Mapping[str, Any],
    *,
    body_only: bool = False,
) -> None:
    """Compares a model of these `settings`, on data of these `sizes`, with what `folder` needs.

    `settings` are those of the section `model`; what does not change what is computed of weights
    (dropout, scan_layers, ...) is free. `body_only`: so is what the model is read out with.

    Raises `configs.UsageError` for what `describe` does, and where anything differs: one line with
    each field and the value to set.
    """
    found = describe(folder)
    needed, classes = dict(found.settings), "num_classes" in sizes
    if classes or body_only:
        needed = {name: needed[name] for name in needed if name not in _OF_TOKENS}
    if "pooling" in needed and found.family != "vit" and (body_only or not classes):
        del needed["pooling"]
    differing, holds = _differing(settings, needed), f"{folder} holds a {found.family}"
    if differing:
        there = ", ".join(f"model.{n} is {_text(settings[n])}" for n in differing if n in settings)
        flags = " ".join(f"--config.model.{name}={_text(needed[name])}" for name in differing)
        raise UsageError(f"{holds}, to which this model is no match: {there}; use {flags}")
    faults = list(_misfits(folder, found.sizes, sizes, body_only=body_only))
    if faults:
        raise UsageError(f"{holds} {'; '.join(faults)}")


def _differing(settings: Mapping[str, Any], needed: Mapping[str, Any]) -> list[str]:
    """Names of what is needed otherwise; all of it where the architecture is another one."""
    if settings["architecture"] != needed["architecture"]:
        return list(needed)
    ours, theirs = _written_out(settings), _written_out({**settings, **needed})
    return [name for name in needed if ours[name] != theirs[name]]


def _written_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of blocks with what their defaults stand for."""
    full, depth, width = dict(settings), settings["depth"], settings["width"]
    full["pattern"] = "".join(sorted(set(settings["pattern"][:depth])))
    full["num_kv_heads"] = settings["num_kv_heads"] or settings["num_heads"]
    full["head_dim"] = settings["head_dim"] or width // settings["num_heads"]
    usual = feed_forward_width(settings["feed_forward"], width)
    full["feed_forward_width"] = settings["feed_forward_width"] or usual
    return full


def _misfits(
    folder: str | Path, needed: Mapping[str, Any], sizes: Mapping[str, Any], *, body_only: bool
) -> Iterator[str]:
    """What of the sizes does not fit, each with what to do."""
    for name in [name for name in needed if name in sizes]:
        theirs, ours = needed[name], sizes[name]
        if name == "vocabulary_size" and ours < theirs:
            file = Path(folder) / "tokenizer.json"
            yield (
                f"of {theirs:,} tokens, but the data has {ours:,}: use "
                f"--config.data.tokenizer.kind=file --config.data.tokenizer.path={file}"
            )
        if name == "max_length" and ours > theirs:
            yield (
                f"of {theirs:,} positions, but the data has {ours:,}: use "
                f"--config.data.sequence_length={theirs}"
            )
        if name == "image_shape" and ours != theirs:
            shapes = [" x ".join(map(str, shape)) for shape in (theirs, ours)]
            yield (
                f"of pictures of {shapes[0]}, but the data has {shapes[1]}: use "
                f"--config.data.image_size={theirs[0]} --config.data.channels={theirs[2]}"
            )
        if name == "num_classes" and ours != theirs and not body_only:
            yield f"of {theirs:,} classes, but the data has {ours:,}"


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
