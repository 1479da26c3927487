"""Decodes uploaded images and audio in the sandbox, and answers them in batches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from inference.compiled import next_power_of_two
from inference.predictors.classification import PictureClassification, RecordingClassification
from inference.predictors.predictor import FilePredictor
from inference.predictors.transcription import Transcription
from inference.recordings import SHORTEST
from serving.errors import invalid
from serving.responses import unless_client_leaves
from serving.service import Service
from serving.uploads import FILE
from serving.worker import Lane

PICTURES_AT_ONCE = 8
"""Maximum number of images in a batch."""
RECORDINGS_AT_ONCE = 4
"""Maximum number of audio recordings in a batch."""

PICTURE_MODULES = ("data.codecs.pictures",)
SOUND_MODULES = ("data.codecs.sound", "soundfile", "soxr", "scipy.sparse")

RecordingPredictor = RecordingClassification | Transcription


def picture_lane(service: Service, predictor: PictureClassification) -> Lane:
    """Add and return the lane for images, each uint8 [height, width, channels]."""
    service.sandbox.preload(*PICTURE_MODULES)
    answer = _answer(service, predictor)

    def warm_up() -> None:
        for rows in _powers_of_two(1, PICTURES_AT_ONCE):
            answer([np.zeros(predictor.shape, np.uint8)] * rows)

    return service.batch_lane(answer, most_rows=PICTURES_AT_ONCE, warm_up=warm_up)


def recording_lane(service: Service, predictor: RecordingPredictor) -> Lane:
    """Add and return the lane for audio, each recording log-mel frames, float32 [frames, mel
    bands]."""
    service.sandbox.preload(*SOUND_MODULES)
    answer = _answer(service, predictor)
    log_mel = predictor.read.log_mel
    seconds = service.limits.max_sound_seconds
    allowed = int(log_mel.frames(round(seconds * log_mel.sample_rate)))
    longest = min(max(allowed, 1), predictor.read.most_frames)

    def warm_up() -> None:
        for length in _powers_of_two(SHORTEST, next_power_of_two(longest)):
            frames = np.zeros((min(length, longest), log_mel.num_mels), np.float32)
            for rows in _powers_of_two(1, RECORDINGS_AT_ONCE):
                answer([frames] * rows)

    return service.batch_lane(answer, most_rows=RECORDINGS_AT_ONCE, warm_up=warm_up)


async def decode(
    service: Service, request: Request, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Call `function(*arguments)` in the sandbox, and return its result.

    The body of the request must have been read. Raises `ApiError` for a file that can't be decoded
    or takes too much time or memory, and `ClientLeft` when the client disconnects.
    """
    decoding = service.sandbox.run(
        function, *arguments, client=service.client_of(request), param=FILE
    )
    try:
        return await unless_client_leaves(request.receive, decoding)
    except ValueError as error:
        raise invalid(f"{FILE}: {error}", FILE, "invalid_file") from None


def _answer(
    service: Service, predictor: FilePredictor[Any]
) -> Callable[[Sequence[np.ndarray]], Sequence[Any]]:
    module = service.model.module

    def answer(contents: Sequence[np.ndarray]) -> Sequence[Any]:
        return predictor.predict_contents(module, [""] * len(contents), contents)

    return answer


def _powers_of_two(first: int, last: int) -> list[int]:
    """Return `first` and its repeated doublings, up to the first value that is at least `last`."""
    powers = [first]
    while powers[-1] < last:
        powers.append(2 * powers[-1])
    return powers
