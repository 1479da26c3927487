"""Rules across sections: what fits what, and what fits the devices."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from configs.errors import UsageError
from configs.schema.model import Decoder, multiples

if TYPE_CHECKING:
    from configs.schema import Config


def check_sections(config: "Config") -> None:
    """Raises ValueError where sections do not fit each other, whatever the devices."""
    _check_task(config)
    if config.data.global_batch_size % config.train.gradient_accumulation:
        raise ValueError(
            f"data.global_batch_size={config.data.global_batch_size} is not divisible by "
            f"train.gradient_accumulation={config.train.gradient_accumulation}: use "
            f"{multiples(config.data.global_batch_size, config.train.gradient_accumulation)}"
        )
    # An axis of yet unknown size is divided by what is known of it.
    _check_sizes(config, {axis: max(1, size) for axis, size in config.mesh.sizes().items()})


def resolve_mesh(config: "Config", device_count: int) -> dict[str, int]:
    """Size of each axis of the mesh on `device_count` devices, in the order of the mesh.

    An axis of -1 takes what is left, rounded down; a mesh may be smaller than the devices. Raises
    `UsageError` where it is larger, and where batch, heads or sequence can not be divided by it.
    """
    sizes = config.mesh.sizes()
    known = math.prod(size for size in sizes.values() if size != -1)
    asked = " x ".join(f"mesh.{axis}={size}" for axis, size in sizes.items() if size != 1)
    if known > device_count:
        raise UsageError(
            f"{asked} needs at least {known} devices, but there are {device_count}: make one "
            f"smaller"
        )
    sizes = {a: device_count // known if size == -1 else size for a, size in sizes.items()}
    try:
        _check_sizes(config, sizes)
    except ValueError as error:
        raise UsageError(f"on {device_count} devices, {error}") from None
    return sizes


def needless_across(config: "Config") -> dict[str, str]:
    """Fields, by their whole path, that other sections leave without effect, each with why."""
    model = config.model
    if isinstance(model, Decoder) and model.attention_window is not None:
        length = config.data.sequence_length
        if model.attention_window >= length:
            return {"model.attention_window": f"data.sequence_length={length} is no longer than it"}
    return {}


def _check_task(config: "Config") -> None:
    task, data, model = config.task, config.data, config.model
    if data.modality != task.modality:
        raise ValueError(
            f"task.name={task.name} learns from {task.modality}, but data.source={data.source} "
            f"gives {data.modality}: change one of them"
        )
    if model.architecture not in task.architectures:
        raise ValueError(
            f"task.name={task.name} needs model.architecture={' or '.join(task.architectures)}, "
            f"not {model.architecture}"
        )
    metric = config.checkpoint.best_metric
    if metric not in task.metrics:
        raise ValueError(
            f"checkpoint.best_metric must be one of {', '.join(task.metrics)} for "
            f"task.name={task.name}, not {metric!r}"
        )


def _check_sizes(config: "Config", sizes: Mapping[str, int]) -> None:
    """Raises ValueError for what the axes of a mesh of `sizes` do not divide."""

    def divisor(logical: str) -> tuple[int, str]:
        axes = [axis for axis in getattr(config.mesh.rules, logical) if sizes[axis] > 1]
        named = " x ".join(f"mesh.{axis}={sizes[axis]}" for axis in axes)
        return math.prod(sizes[axis] for axis in axes), named

    model, accumulation = config.model, config.train.gradient_accumulation
    parts, named = divisor("batch")
    batch = config.data.global_batch_size
    if batch % (accumulation * parts):
        cut = f" / train.gradient_accumulation={accumulation}" if accumulation > 1 else ""
        raise ValueError(
            f"data.global_batch_size={batch}{cut} is not divisible by {named}: use a batch of "
            f"{multiples(batch, accumulation * parts)}, or another mesh"
        )
    if sizes["sequence"] > 1:
        _check_sequence(config, sizes["sequence"])
    if isinstance(model, Decoder) and "A" in model.pattern:
        heads = {"heads": ("num_heads", model.num_heads)}
        if model.num_kv_heads is not None:
            heads["kv_heads"] = ("num_kv_heads", model.num_kv_heads)
        for logical, (name, count) in heads.items():
            parts, named = divisor(logical)
            if count % parts:
                raise ValueError(
                    f"model.{name}={count} is not divisible by {named}: use "
                    f"{multiples(count, parts)} heads, or a smaller axis"
                )


def _check_sequence(config: "Config", parts: int) -> None:
    model = config.model
    if not isinstance(model, Decoder) or "R" in model.pattern:
        what = f"model.architecture={model.architecture}"
        if isinstance(model, Decoder):
            what = f"model.pattern={model.pattern} (recurrence)"
        raise ValueError(
            f"mesh.sequence={parts} splits the positions of a sequence, which only attention "
            f"can do, not {what}: use mesh.sequence=1"
        )
    length = config.data.sequence_length
    if length % parts:
        raise ValueError(
            f"data.sequence_length={length} is not divisible by mesh.sequence={parts}: use "
            f"{multiples(length, parts)}"
        )
