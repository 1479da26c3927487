"""`/v1/translate`: texts as answers to texts, such as translations."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from configs.schema.task import SequenceToSequence
from inference.predictors.text_to_text import TextToText
from inference.translation import MOST_ROWS
from serving.batches import answer_inputs, answer_with, read_inputs
from serving.errors import invalid
from serving.forms.answers import finite
from serving.forms.inputs import ReadUsage
from serving.forms.translate import TranslateAnswer, TranslatedText, TranslateForm
from serving.route import Route
from serving.service import Service


def routes(service: Service) -> list[Route]:
    """Return the route that translates; none for a model of another kind."""
    predictor, module = service.predictor, service.model.module
    if not isinstance(predictor, TextToText):
        return []
    task, translator = service.model.restored.model_def.config.task, predictor.batch_predictor
    assert isinstance(task, SequenceToSequence)
    translator.row_sizes = sorted({min(size, MOST_ROWS) for size in service.row_sizes})
    lane = service.batch_lane(
        partial(translator.translate_sources, module),
        most_rows=translator.row_sizes[-1],
        warm_up=partial(translator.warm_up, module),
    )

    async def translate(request: Request) -> Response:
        form = await service.read(request, TranslateForm)
        _check_search(form, task)
        warnings: list[str] = []

        def read(text: str, name: str) -> list[int]:
            return predictor.encode(text, place=name, warn=warnings.append)

        sources = await read_inputs(read, form.texts)
        tokens = [len(source) for source in sources]
        answers = await answer_inputs(service, lane, request, sources, tokens=tokens)

        def body(usage: ReadUsage) -> TranslateAnswer:
            data = [
                TranslatedText(index=index, text=one.text, score=finite(one.score))
                for index, one in enumerate(answers)
            ]
            return TranslateAnswer(model=service.name, data=data, usage=usage, warnings=warnings)

        return await answer_with(service, tokens, body)

    return [
        Route(
            "POST",
            "/v1/translate",
            translate,
            "Answers texts with texts, such as translations.",
            form=TranslateForm,
            answer=TranslateAnswer,
            example={"model": service.name, "input": "A text"},
        )
    ]


def _check_search(form: TranslateForm, task: SequenceToSequence) -> None:
    """Raise `ApiError` for settings of the beam search other than those whose programs are
    compiled."""
    for name in ("beam_size", "length_penalty"):
        given, ours = getattr(form, name), getattr(task, name)
        if given not in (None, ours):
            raise invalid(f"{name} is {ours} here, as the model was evaluated: not {given}", name)
