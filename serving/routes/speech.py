"""`/v1/audio/transcriptions`: the texts of audio recordings."""

import zlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from data.codecs.tokenizers import Tokenizer
from inference.predictors.predictor import Prediction
from inference.predictors.transcription import Transcription
from serving.batches import answer_inputs
from serving.files import decode, recording_lane
from serving.forms.answers import finite
from serving.forms.speech import (
    DurationUsage,
    Segment,
    Transcript,
    TranscriptionAnswer,
    TranscriptionEvent,
    TranscriptionForm,
    VerboseTranscript,
)
from serving.responses import EventStream, json_response
from serving.route import Route
from serving.service import Service
from serving.uploads import FILE

UNKNOWN_LANGUAGE = "unknown"


def routes(service: Service) -> list[Route]:
    """Return the route that transcribes recordings; none for a model of another kind."""
    predictor = service.predictor
    if not isinstance(predictor, Transcription):
        return []
    lane, tokenizer = recording_lane(service, predictor), service.model.tokenizer
    assert tokenizer is not None
    read, most_seconds = predictor.read.timed, service.limits.max_sound_seconds

    async def transcribe(request: Request) -> Response:
        service.check_ready()
        client = service.client_of(request)
        async with service.uploads.open(request, client=client) as upload:
            form = TranscriptionForm.of_fields(upload.fields)
            service.check_model(form.model)
            form.check(service.limits)
            frames, seconds = await decode(service, request, read, upload.file, most_seconds)
        ((_, written),) = await answer_inputs(
            service, lane, request, [frames], tokens=[len(frames)], param=FILE
        )
        if form.stream:
            events = _events(written.text)
            return EventStream(events, request.state.request_id, on_close=lambda: None)
        return respond(form, written, seconds, tokenizer)

    return [
        Route(
            "POST",
            "/v1/audio/transcriptions",
            transcribe,
            "Transcribes a recording.",
            answer=TranscriptionAnswer,
            streams=True,
            event=TranscriptionEvent,
            upload=TranscriptionForm.upload_schema(),
            media_types=("text/plain", "text/vtt"),
        )
    ]


async def _events(text: str) -> AsyncIterator[dict[str, Any]]:
    yield {"type": "transcript.text.delta", "delta": text}
    yield {"type": "transcript.text.done", "text": text}


def respond(
    form: TranscriptionForm, written: Prediction, seconds: float, tokenizer: Tokenizer
) -> Response:
    """Return a transcript in the requested format. seconds: the length of the audio.

    The models give no timestamps, so the whole text is one segment; an empty text has no segment.
    """
    text, usage = written.text, DurationUsage(seconds=seconds)
    if form.response_format == "text":
        return _plain(text + "\n")
    if form.response_format == "srt":
        return _plain(subtitles(text, seconds))
    if form.response_format == "vtt":
        return _plain(web_subtitles(text, seconds), "text/vtt")
    if form.response_format == "json":
        return json_response(Transcript(text=text, usage=usage))
    return json_response(
        VerboseTranscript(
            language=form.language or UNKNOWN_LANGUAGE,
            duration=seconds,
            text=text,
            segments=[segment(written, seconds, tokenizer)] if text else [],
            usage=usage,
        )
    )


def segment(written: Prediction, seconds: float, tokenizer: Tokenizer) -> Segment:
    """Return one segment with the whole text, which must not be empty.

    The models give no probability that there is no speech; `no_speech_prob` is 0.
    """
    tokens, encoded = tokenizer.encode(written.text).tolist(), written.text.encode()
    return Segment(
        id=0,
        seek=0,
        start=0.0,
        end=seconds,
        text=written.text,
        tokens=tokens,
        temperature=0.0,
        avg_logprob=finite(written.score / max(len(tokens), 1)),
        compression_ratio=len(encoded) / len(zlib.compress(encoded)),
        no_speech_prob=0.0,
    )


def subtitles(text: str, seconds: float) -> str:
    """Return a text as SubRip: one cue for the whole recording; nothing for an empty text."""
    if not text:
        return ""
    return f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{_line(text)}\n\n"


def web_subtitles(text: str, seconds: float) -> str:
    """Return a text as WebVTT: one cue for the whole recording; no cue for an empty text."""
    if not text:
        return "WEBVTT\n\n"
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return f"WEBVTT\n\n{_clock(0, '.')} --> {_clock(seconds, '.')}\n{_line(text)}\n\n"


def _line(text: str) -> str:
    """Return a text on one line: an empty line would end the cue."""
    return " ".join(text.split())


def _clock(seconds: float, point: str) -> str:
    """Return a time as hours, minutes, seconds and, after `point`, milliseconds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _plain(text: str, media_type: str = "text/plain") -> Response:
    return Response(text.encode(errors="replace"), media_type=f"{media_type}; charset=utf-8")
