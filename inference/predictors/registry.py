"""Maps each task to its predictor. Nothing here imports JAX."""

from typing import Any

from configs.schema.config import Config
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

PREDICTORS: dict[str, type[Predictor[Any, Any]]] = {
    "next_tokens": TextCompletion,
    "missing_tokens": GapFilling,
    "target_tokens": TextToText,
    "transcript": Transcription,
}
"""Predictors by the `model_output` of the task."""

CLASSIFIERS: dict[str, type[Predictor[Any, Any]]] = {
    "labelled_text": TextClassification,
    "pictures": PictureClassification,
    "labelled_sound": RecordingClassification,
}
"""Predictors by the modality of the data, for tasks with the `model_output` "classes"."""


def predictor_class(config: Config) -> type[Predictor[Any, Any]]:
    """Return the class of the predictor for models of `config`."""
    if config.task.model_output == "classes":
        return CLASSIFIERS[config.data.modality]
    return PREDICTORS[config.task.model_output]
