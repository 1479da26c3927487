"""The body of `/v1/info`: the served model, with its metrics."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import pydantic

from configs.schema.config import Config
from configs.schema.task import LanguageModeling
from data.codecs.chat import ChatTokenizer
from inference.loading import LoadedModel
from inference.predictors.classification import (
    PictureClassification,
    RecordingClassification,
    TextClassification,
)
from inference.predictors.completion import TextCompletion
from inference.predictors.filling import GapFilling
from inference.predictors.predictor import Predictor
from inference.predictors.text_to_text import TextToText
from inference.predictors.transcription import Transcription
from serving.forms.answers import AnswerModel

Kind = Literal[
    "text",
    "chat",
    "fill",
    "translate",
    "classify_text",
    "classify_picture",
    "classify_sound",
    "transcribe",
]
"""The kind of task that a model is served for."""

KINDS: Mapping[type[Predictor[Any, Any]], Kind] = {
    TextCompletion: "text",
    GapFilling: "fill",
    TextToText: "translate",
    TextClassification: "classify_text",
    PictureClassification: "classify_picture",
    RecordingClassification: "classify_sound",
    Transcription: "transcribe",
}

SHAPE_FIELDS = ("depth", "width", "pattern", "recurrence", "channels")
"""The fields of the section `model` that best characterise an architecture."""

LIMITS = (
    "max_tokens",
    "max_n",
    "max_stops",
    "max_stop_characters",
    "max_prompts",
    "max_messages",
    "max_body_bytes",
    "max_upload_bytes",
    "max_pixels",
    "max_sound_seconds",
)
"""The fields of the section `serve` that clients need to know."""

NOT_FIGURES = ("step", "examples")
"""Entries of a checkpoint's metrics that are not metrics."""


class ModelInfo(AnswerModel):
    """The model that is served.

    status: ready, compiling, stopping or failed. step: the step of the checkpoint. parameters:
    their number. architecture, task, data: their names in the configuration; model: the main fields
    of the architecture. context: the maximum number of tokens of a text that the model reads, null
    if it is unlimited. classes: their names. image_shape: height and width in pixels, and channels.
    sample_rate: of the audio that the model reads, in hertz. metrics: those of the checkpoint on
    the validation split, null if they are not finite; measured_by: the settings with which answers
    were generated for them. best_metric: the metric that ranks the checkpoints. examples: number of
    validation examples. training_seconds: duration of the training. limits: those of requests.
    prompts: examples to try. has_report: whether `/report` has the report of the training.
    """

    model_config = pydantic.ConfigDict(protected_namespaces=())

    name: str
    status: str
    kind: Kind
    step: int
    parameters: int
    architecture: str
    model: dict[str, Any]
    task: str
    data: str
    context: int | None
    classes: list[str] | None
    image_shape: list[int] | None
    sample_rate: int | None
    metrics: dict[str, float | None]
    measured_by: dict[str, Any]
    best_metric: str
    examples: int | None
    training_seconds: float | None
    limits: dict[str, float]
    prompts: list[str]
    has_report: bool


def model_info(
    model: LoadedModel,
    *,
    name: str,
    status: str,
    context: int | None,
    limits: Any,
    has_report: bool,
) -> ModelInfo:
    """Return the public description of a model. context: as in `ModelInfo`. limits: the section
    `serve` of the configuration."""
    restored = model.restored
    config, spec = restored.model_def.config, restored.model_def.data_spec
    manifest = restored.manifest
    measured = manifest.get("metrics") or {}  # none before the first evaluation
    return ModelInfo(
        name=name,
        status=status,
        kind=kind_of(model),
        step=restored.step,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(restored.model_def.abstract_params)),
        architecture=config.model.architecture,
        model=_shape(config),
        task=config.task.name,
        data=config.data.source,
        context=context,
        classes=None if spec.classes is None else list(spec.classes),
        image_shape=None if spec.image_shape is None else list(spec.image_shape),
        sample_rate=getattr(config.data, "sample_rate", None),
        metrics={
            key: value if math.isfinite(value) else None
            for key, value in measured.items()
            if key not in NOT_FIGURES
        },
        measured_by=config.task.measured_by,
        best_metric=config.checkpoint.best_metric,
        examples=measured.get("examples"),
        training_seconds=manifest.get("history", {}).get("seconds"),
        limits={field: getattr(limits, field) for field in LIMITS},
        prompts=_prompts(config),
        has_report=has_report,
    )


def kind_of(model: LoadedModel) -> Kind:
    """Return the kind of task that a model is served for."""
    predictor = model.default_predictor
    if isinstance(predictor, TextCompletion) and isinstance(predictor.tokenizer, ChatTokenizer):
        return "chat"
    return KINDS[type(predictor)]


def _shape(config: Config) -> dict[str, Any]:
    """Return the main fields of an architecture."""
    fields = config.model.model_dump(mode="json")
    if "R" not in fields.get("pattern", "R"):
        del fields["recurrence"]
    return {name: fields[name] for name in SHAPE_FIELDS if fields.get(name) is not None}


def _prompts(config: Config) -> list[str]:
    task = config.task
    return list(task.sample_prompts or ()) if isinstance(task, LanguageModeling) else []
