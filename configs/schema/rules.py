"""Checks that the sections of a configuration fit together, and fit the number of devices."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from configs.errors import UsageError
from configs.schema.blocks import Stack, nearest_multiples
from configs.schema.conversations import Conversations
from configs.schema.model import ARCHITECTURES, RNN, TokenBlocks
from configs.schema.settings import kind_name
from configs.schema.source import TokenizedText
from configs.schema.task import LanguageModeling

if TYPE_CHECKING:
    from configs.schema.config import Config


def check_sections(config: "Config") -> None:
    """Raise ValueError if sections conflict. The number of devices is checked by `resolve_mesh`."""
    _check_task(config)
    batch, accumulation = config.data.global_batch_size, config.train.gradient_accumulation
    if batch % accumulation:
        raise ValueError(
            f"data.global_batch_size={batch} is not divisible by "
            f"train.gradient_accumulation={accumulation}: use "
            f"{nearest_multiples(batch, accumulation)}"
        )
    # An axis of size -1 is unknown until the devices are known. Size 1 passes every check.
    _check_sizes(config, {axis: max(1, size) for axis, size in config.mesh.sizes().items()})


def resolve_mesh(config: "Config", device_count: int) -> dict[str, int]:
    """Return the size of each mesh axis on `device_count` devices, in the order of the axes.

    An axis of size -1 takes all remaining devices. Some devices may stay unused. Raises
    `UsageError` if the mesh needs more devices, or if a sharded dimension, such as the batch, is
    not divisible.
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


def resolve_steps(config: "Config", examples: int) -> "Config":
    """Return `config` with `train.steps` computed from `train.epochs`, if that is given.

    examples: the number of training examples.

    Raises `UsageError` as `Train.with_steps` raises ValueError.
    """
    try:
        train = config.train.with_steps(examples, config.data.global_batch_size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config.model_copy(update={"train": train})


def unused_across_sections(config: "Config") -> dict[str, str]:
    """Return the fields that have no effect because of fields in other sections: path to reason."""
    model, reasons = config.model, {}
    if isinstance(model, TokenBlocks) and model.attention_window is not None:
        length = getattr(config.data, "sequence_length", model.attention_window + 1)
        if model.attention_window >= length:
            why = f"data.sequence_length={length} is no longer than it"
            reasons["model.attention_window"] = why
    single_head_fields = {"tied_embeddings", "logit_soft_cap", "head_transform", "pooling"}
    single_head_fields &= set(type(model).model_fields)
    if len(type(model).outputs) > 1:
        classifies = config.task.model_output == "classes"
        for name in single_head_fields:
            if classifies != (name == "pooling"):
                reasons[f"model.{name}"] = f"task.name is {config.task.name}"
    if config.data.modality != "pictures":
        names = {"mixup", "cutmix"} & set(type(config.task).model_fields)
        why = f"data.source={config.data.source} has no pictures"
        reasons |= dict.fromkeys((f"task.{name}" for name in names), why)
    return reasons


def _check_task(config: "Config") -> None:
    task, data, model = config.task, config.data, config.model
    if data.modality not in task.modalities:
        raise ValueError(
            f"task.name={task.name} learns from {_words(task.modalities)}, but "
            f"data.source={data.source} gives {_words([data.modality])}: change one of them"
        )
    if task.model_output not in model.outputs or data.modality not in model.modalities:
        fitting = [
            str(kind_name(kind))
            for kind in ARCHITECTURES
            if task.model_output in kind.outputs and data.modality in kind.modalities
        ]
        raise ValueError(
            f"task.name={task.name} on {_words([data.modality])} needs model.architecture="
            f"{' or '.join(fitting)}, not {model.architecture}"
        )
    if isinstance(data, Conversations):
        if not isinstance(task, LanguageModeling):
            raise ValueError(
                f"data.source=conversations teaches answers, which task.name=language_modeling "
                f"learns, not {task.name}"
            )
        if task.sample_prompts is None:
            raise ValueError(
                "task.sample_prompts=none takes lines of a text, and data.source=conversations has "
                "questions: give some, or () for no samples"
            )
    if isinstance(model, RNN) and model.bidirectional and task.model_output != "classes":
        raise ValueError(
            f"model.bidirectional=true sees the tokens that task.name={task.name} has to predict: "
            f"use false"
        )
    metric = config.checkpoint.best_metric
    if metric not in task.metrics:
        raise ValueError(
            f"checkpoint.best_metric must be one of {', '.join(task.metrics)} for "
            f"task.name={task.name}, not {metric!r}"
        )
    if metric in task.text_metrics and not task.answered_examples:
        raise ValueError(
            f"checkpoint.best_metric={metric} is of written answers, of which "
            f"task.answered_examples=0 asks for none: use 200, or loss"
        )


def _check_sizes(config: "Config", sizes: Mapping[str, int]) -> None:
    """Raise ValueError if a dimension is not divisible by the mesh axes that split it.

    sizes: the size of each axis of the mesh.
    """

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
            f"{nearest_multiples(batch, accumulation * parts)}, or another mesh"
        )
    if sizes["sequence"] > 1:
        _check_sequence(config, sizes["sequence"])
    if isinstance(model, Stack) and model.has_attention:
        heads = {"heads": ("num_heads", model.num_heads)}
        if model.num_kv_heads is not None:
            heads["kv_heads"] = ("num_kv_heads", model.num_kv_heads)
        for logical, (name, count) in heads.items():
            parts, named = divisor(logical)
            if count % parts:
                raise ValueError(
                    f"model.{name}={count} is not divisible by {named}: use "
                    f"{nearest_multiples(count, parts)} heads, or a smaller axis"
                )


def _words(modalities: Iterable[str]) -> str:
    return " or ".join(modality.replace("_", " ") for modality in modalities)


def _check_sequence(config: "Config", parts: int) -> None:
    model = config.model
    if not isinstance(model, TokenBlocks) or not set(model.pattern) <= {"A", "G"}:
        what = f"model.architecture={model.architecture}"
        if isinstance(model, TokenBlocks):
            kinds = {"R": "recurrence", "C": "convolution"}
            found = " and ".join(kinds[letter] for letter in "RC" if letter in model.pattern)
            what = f"model.pattern={model.pattern} ({found})"
        raise ValueError(
            f"mesh.sequence={parts} splits the positions of a sequence, which only attention "
            f"can do, not {what}: use mesh.sequence=1"
        )
    if not isinstance(config.data, TokenizedText):
        raise ValueError(
            f"mesh.sequence={parts} splits the positions of a sequence, but batches of text pairs "
            f"have many lengths: use mesh.sequence=1"
        )
    length = config.data.sequence_length
    if length % parts:
        raise ValueError(
            f"data.sequence_length={length} is not divisible by mesh.sequence={parts}: use "
            f"{nearest_multiples(length, parts)}"
        )
