"""`/v1/fill`: the missing tokens of texts."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from configs.errors import UsageError
from inference.predictors.filling import MOST_GAPS, GapFilling, Gapped
from serving.batches import answer_inputs, answer_with, read_inputs
from serving.forms.fill import FillAnswer, FilledText, FillForm
from serving.forms.inputs import ReadUsage
from serving.route import Route
from serving.service import Service

GAP_SIZES = (4, 32, MOST_GAPS)
"""Numbers of gaps in a batch for which programs are compiled."""


def routes(service: Service) -> list[Route]:
    """Return the route that fills in gaps; none for a model that is not a masked language model."""
    predictor, module = service.predictor, service.model.module
    if not isinstance(predictor, GapFilling):
        return []
    predictor.row_sizes, predictor.gap_sizes = service.row_sizes, GAP_SIZES
    lane = service.batch_lane(
        partial(predictor.fill, module),
        most_rows=service.row_sizes[-1],
        warm_up=partial(predictor.warm_up, module),
    )

    def read(text: str, name: str) -> Gapped:
        prompt = predictor.encode(module, text)
        if prompt.gaps > MOST_GAPS:
            raise UsageError(f"{name} has {prompt.gaps} gaps, and {MOST_GAPS} are the limit here")
        return prompt

    async def fill(request: Request) -> Response:
        form = await service.read(request, FillForm)
        prompts = await read_inputs(read, form.texts)
        tokens = [len(prompt.tokens) for prompt in prompts]
        filled = await answer_inputs(service, lane, request, prompts, tokens=tokens)

        def body(usage: ReadUsage) -> FillAnswer:
            data = [
                FilledText.model_validate(
                    {"index": index, "text": one.text, "candidates": one.candidates}
                )
                for index, one in enumerate(filled)
            ]
            return FillAnswer(model=service.name, data=data, usage=usage)

        return await answer_with(service, tokens, body)

    return [
        Route(
            "POST",
            "/v1/fill",
            fill,
            "Fills in each [MASK] in texts.",
            form=FillForm,
            answer=FillAnswer,
            example={"model": service.name, "input": "One [MASK] of a text"},
        )
    ]
