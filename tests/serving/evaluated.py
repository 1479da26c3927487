"""What `evaluate.py` says of a workdir, and the examples that it says it of."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import evaluate
from configs.reading.saved import read_config, with_workdir_tokenizer
from data.dataset import Dataset
from data.evaluation_batches import EvaluationBatches
from data.preparation import prepare
from tests.serving.servers import RunningServer

BATCH_SIZE = 8
PROMPTS_AT_ONCE = 5
"""Prompts of a request: the last request of a split then has others than the rest."""


def figures(workdir: Path, capsys, *flags: str) -> dict[str, Any]:
    """Return the metrics that `evaluate.py` prints."""
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def data_of(workdir: Path) -> Dataset:
    """Return the prepared data of a workdir."""
    return prepare(with_workdir_tokenizer(read_config(workdir), workdir).data)


def batches(workdir: Path, split: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the batches of a split, as an evaluation reads them."""
    yield from EvaluationBatches(data_of(workdir).splits[split], BATCH_SIZE, None)


def documents(batch: Mapping[str, np.ndarray]) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the parts of packed windows that are read apart from each other: the ids of the tokens
    and of the last target, and the weight of each target."""
    tokens, targets, weights = (batch[name] for name in ("tokens", "targets", "weights"))
    segments = batch.get("segments", (weights > 0).astype(np.int32))
    for row, of_row in enumerate(segments):
        for segment in np.unique(of_row[of_row > 0]):
            (places,) = np.nonzero(of_row == segment)
            ids = [*tokens[row, places].tolist(), int(targets[row, places[-1]])]
            yield ids, weights[row, places].tolist()


def served_loss(server: RunningServer, workdir: Path, split: str) -> tuple[float, float]:
    """Return the loss of a split in nats per token, from the log-probabilities of its documents
    over HTTP; and the number of targets."""
    found = [one for batch in batches(workdir, split) for one in documents(batch)]
    loss = count = 0.0
    for start in range(0, len(found), PROMPTS_AT_ONCE):
        some = found[start : start + PROMPTS_AT_ONCE]
        fields = {"model": server.model, "prompt": [ids for ids, _ in some]}
        fields |= {"echo": True, "max_tokens": 0, "logprobs": 1}
        choices = server.ask("/v1/completions", fields)["choices"]
        assert [choice["index"] for choice in choices] == [*range(len(some))]
        for (ids, weights), choice in zip(some, choices, strict=True):
            first, *scores = choice["logprobs"]["token_logprobs"]
            assert first is None and len(scores) == len(weights) == len(ids) - 1
            loss -= float(np.dot(scores, weights))
            count += sum(weights)
    return loss / count, count
