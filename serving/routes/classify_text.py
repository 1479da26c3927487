"""`/v1/classify` for texts: their labels."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from inference.predictors.classification import BATCH_SIZE, Classified, TextClassification
from serving.batches import answer_inputs, answer_with, read_inputs
from serving.forms.classify import (
    ClassifiedText,
    ClassifyTextsAnswer,
    ClassifyTextsForm,
    LabelScore,
)
from serving.forms.inputs import ReadUsage
from serving.route import Route
from serving.service import Service

Read = tuple[str, np.ndarray]
"""A text, and the tokens of it that the model reads."""


def routes(service: Service) -> list[Route]:
    """Return the route that classifies texts; none for a model of another kind."""
    predictor, module = service.predictor, service.model.module
    if not isinstance(predictor, TextClassification):
        return []
    most_rows = min(service.row_sizes[-1], BATCH_SIZE)

    def label(inputs: Sequence[Read]) -> list[Classified]:
        texts, read = zip(*inputs, strict=True)
        return predictor.classify(module, texts, read)

    lane = service.batch_lane(
        label, most_rows=most_rows, warm_up=partial(predictor.warm_up, module, most_rows)
    )

    async def classify(request: Request) -> Response:
        form = await service.read(request, ClassifyTextsForm)
        warnings: list[str] = []

        def read(text: str, name: str) -> Read:
            return text, predictor.encode(text, place=name, warn=warnings.append)

        inputs = await read_inputs(read, form.texts)
        tokens = [len(ids) for _, ids in inputs]
        found = await answer_inputs(service, lane, request, inputs, tokens=tokens)

        def body(usage: ReadUsage) -> ClassifyTextsAnswer:
            data = [
                ClassifiedText(
                    index=index, label=one.label, scores=best_scores(one.scores, form.top_k)
                )
                for index, one in enumerate(found)
            ]
            return ClassifyTextsAnswer(
                model=service.name, data=data, usage=usage, warnings=warnings
            )

        return await answer_with(service, tokens, body)

    return [
        Route(
            "POST",
            "/v1/classify",
            classify,
            "Classifies texts.",
            form=ClassifyTextsForm,
            answer=ClassifyTextsAnswer,
            example={"model": service.name, "input": ["One text", "Another"]},
        )
    ]


def best_scores(scores: dict[str, float], most: int | None) -> list[LabelScore]:
    """Return the `most` likeliest labels, the likeliest first; all labels if `most` is None."""
    ordered = sorted(scores.items(), key=lambda item: -item[1])[:most]
    return [LabelScore(label=label, score=score) for label, score in ordered]
