"""From a restored model to an answer: text that goes on, is filled in or translated, what is said
in a recording, a label.

Imported lazily by name, so that a verb can read its command line without starting JAX.
"""

import importlib
from typing import Any

_HOMES = {
    "Answer": "answers",
    "Answerer": "answers",
    "Completion": "requests",
    "Generator": "generation",
    "Request": "requests",
    "Sample": "samples",
    "Samples": "samples",
    "Sampling": "requests",
    "Transcriber": "transcription",
    "Translator": "translation",
    "Unreadable": "files",
    "Writer": "output",
    "answer_files": "files",
    "answer_split": "answers",
    "classify": "classification",
    "classify_recordings": "classification",
    "classify_texts": "classification",
    "fill_in": "filling",
    "first_answers": "samples",
    "heading": "output",
    "make_answerer": "answers",
    "recording_reader": "recordings",
    "sample_text": "samples",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"inference.{_HOMES[name]}"), name)
    return found
