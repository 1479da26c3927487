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
"""By what a task needs of a model."""

CLASSIFIERS: dict[str, type[Predictor[Any, Any]]] = {
    "labelled_text": TextClassification,
    "pictures": PictureClassification,
    "labelled_sound": RecordingClassification,
}
"""By the modality of the data, for the tasks that need classes."""


def predictor_class(config: Config) -> type[Predictor[Any, Any]]:
    """Return the class of predictor for models of `config`."""
    if config.task.model_output == "classes":
        return CLASSIFIERS[config.data.modality]
    return PREDICTORS[config.task.model_output]
