"""Answers in text to the examples of a split, beside those that are right."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from configs.data_spec import DataSpec
from configs.schema.config import Config
from data.codecs.tokenizers import Tokenizer
from parallel.feeding import everywhere

Batch = Mapping[str, Any]

_ANSWERERS = {
    "target_tokens": "inference.translation.Translator",
    "transcript": "inference.transcription.Transcriber",
}
"""By what a task needs of a model, the class that answers with it."""


@dataclass(frozen=True)
class Answer:
    """What a model writes, and how sure it is: the larger the score, the surer."""

    text: str
    score: float


class Answerer(Protocol):
    """Answers with the models of one configuration; what it compiles, it keeps."""

    def answer(self, module: nnx.Module, batch: Batch) -> list[Answer]:
        """One for each row of a global batch that has weight."""
        ...

    def texts(self, batch: Batch) -> list[dict[str, str]]:
        """Of each such row the right answer, `reference`, and what else of it is a text; the batch
        is on the host."""
        ...


def make_answerer(
    config: Config, tokenizer: Tokenizer | None, data_spec: DataSpec, mesh: Mesh
) -> Answerer | None:
    """The one for models of `config` on `mesh`; None where the task writes no text."""
    home = _ANSWERERS.get(config.task.needs)
    if home is None:
        return None
    module, _, name = home.rpartition(".")
    return getattr(importlib.import_module(module), name).of(config, tokenizer, data_spec, mesh)


def answer_split(
    answerer: Answerer,
    module: nnx.Module,
    batches: Iterable[Batch],
    order: np.ndarray,
) -> dict[str, np.ndarray]:
    """`reference`, `hypothesis`, `score`, and what else is a text, of each example of the global
    `batches` that has weight, in the order of the split. order: the number in it of each row."""
    rows: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in batches:
        there = everywhere(batch)
        weights = there["weights"].reshape(len(there["weights"]), -1)
        examples = order[start + np.flatnonzero(weights.any(axis=1))].tolist()
        answers = answerer.answer(module, batch)
        for example, known, answer in zip(examples, answerer.texts(there), answers, strict=True):
            rows[example] = known | {"hypothesis": answer.text, "score": answer.score}
        start += len(weights)
    found = [row for _, row in sorted(rows.items())]
    return {name: np.array([row[name] for row in found], object) for name in found[0]}
