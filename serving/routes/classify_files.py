"""`/v1/classify` for images and audio: the likeliest labels of an uploaded file."""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference.predictors.classification import (
    Classified,
    PictureClassification,
    RecordingClassification,
)
from serving.batches import answer_inputs
from serving.files import decode, picture_lane, recording_lane
from serving.forms.classify_files import ClassifyAnswer, ClassifyFileForm, FileLabelScore
from serving.responses import json_response
from serving.route import Route
from serving.service import Service
from serving.uploads import FILE


def routes(service: Service) -> list[Route]:
    """Return the route that classifies files; none for a model of another kind."""
    predictor = service.predictor
    if not isinstance(predictor, PictureClassification | RecordingClassification):
        return []
    limits, is_sound = service.limits, isinstance(predictor, RecordingClassification)
    if isinstance(predictor, RecordingClassification):
        lane, file_types = recording_lane(service, predictor), ("audio/",)
        read: Any = partial(predictor.read.timed, most_seconds=limits.max_sound_seconds)
    else:
        lane, file_types = picture_lane(service, predictor), ("image/",)
        decoder: Any = predictor.read
        read = partial(decoder, most_pixels=limits.max_pixels)

    async def classify(request: Request) -> Response:
        service.check_ready()
        client = service.client_of(request)
        async with service.uploads.open(request, client=client, file_types=file_types) as upload:
            form = ClassifyFileForm.of_fields(upload.fields)
            service.check_model(form.model)
            content = await decode(service, request, read, upload.file)
        content = content[0] if is_sound else content
        tokens = [len(content) if is_sound else 0]
        (classified,) = await answer_inputs(
            service, lane, request, [content], tokens=tokens, param=FILE
        )
        return json_response(_body(classified, service.name, form.top_k))

    return [
        Route(
            "POST",
            "/v1/classify",
            classify,
            f"Classifies {predictor.input_kind}.",
            answer=ClassifyAnswer,
            upload=ClassifyFileForm.upload_schema(),
        )
    ]


def _body(classified: Classified, model: str, most: int | None) -> ClassifyAnswer:
    likeliest = sorted(classified.scores.items(), key=lambda item: -item[1])[:most]
    scores = [FileLabelScore(label=label, score=score) for label, score in likeliest]
    return ClassifyAnswer(model=model, label=classified.label, scores=scores)
