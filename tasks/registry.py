"""Build a task from its name."""

from typing import Any

from tasks.classification import Classification
from tasks.language_modeling import LanguageModeling
from tasks.masked_language_modeling import MaskedLanguageModeling
from tasks.sequence_to_sequence import SequenceToSequence
from tasks.speech_recognition import SpeechRecognition
from tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "language_modeling": LanguageModeling,
    "masked_language_modeling": MaskedLanguageModeling,
    "sequence_to_sequence": SequenceToSequence,
    "classification": Classification,
    "speech_recognition": SpeechRecognition,
}


def build(name: str, **settings: Any) -> Task:
    """Build the task called `name`; `settings` are the arguments of its class."""
    return TASKS[name](**settings)
