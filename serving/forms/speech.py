"""The bodies of `/v1/audio/transcriptions`."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import pydantic

from configs.schema.serve import Serve
from serving.errors import invalid
from serving.forms.answers import AnswerModel
from serving.forms.upload import UploadForm


class TranscriptionForm(UploadForm):
    """The fields beside an audio file. language: only repeated in the answer."""

    ignored = UploadForm.ignored | {"prompt"}
    refused: ClassVar = {
        "include": "these models give no log-probabilities of tokens",
        "languages": "a model here has one language",
        "keywords": "these models take no hints",
        "known_speaker_names": "speakers are not told apart",
        "known_speaker_references": "speakers are not told apart",
        "chunking_strategy": "a recording is transcribed as a whole",
        "beam_size": "the search is set when the model is trained",
    }
    harmless: ClassVar = {"chunking_strategy": ("", "auto")}
    lists = frozenset(
        (
            "timestamp_granularities",
            "include",
            "languages",
            "keywords",
            "known_speaker_names",
            "known_speaker_references",
        )
    )

    language: Annotated[str, pydantic.Field(max_length=64)] = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = 0.0
    timestamp_granularities: list[Literal["segment", "word"]] = pydantic.Field(default_factory=list)
    stream: bool = False

    def check(self, limits: Serve) -> None:
        """Raise `ApiError` for values that the models do not support."""
        if self.temperature:
            message = "temperature must be 0: the likeliest transcript is written"
            raise invalid(message, "temperature", "unsupported_value")
        if "word" in self.timestamp_granularities:
            message = "timestamp_granularities: these models know no times of words"
            raise invalid(message, "timestamp_granularities", "unsupported_value")
        if self.timestamp_granularities and self.response_format != "verbose_json":
            message = "timestamp_granularities is for response_format: verbose_json"
            raise invalid(message, "timestamp_granularities")
        if self.stream and self.response_format != "json":
            raise invalid("stream is for response_format: json", "stream")


class DurationUsage(AnswerModel):
    """The usage of a request: the length of its audio, in seconds."""

    type: Literal["duration"] = "duration"
    seconds: float


class Transcript(AnswerModel):
    """The text of an audio recording."""

    text: str
    usage: DurationUsage


class Segment(AnswerModel):
    """A part of an audio recording. Times are in seconds.

    tokens: the ids of the text's tokens. avg_logprob: the text's log-probability divided by the
    number of its tokens, in nats. compression_ratio: the size of the text divided by its size after
    compression with zlib.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: Sequence[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscript(AnswerModel):
    """The text of an audio recording, with its segments. duration: the length in seconds."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    text: str
    segments: Sequence[Segment]
    usage: DurationUsage


class TranscriptionAnswer(pydantic.RootModel[VerboseTranscript | Transcript]):
    """The text of an audio recording, in the requested format."""


class TranscriptDelta(AnswerModel):
    """A part of the text, in a stream."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptDone(AnswerModel):
    """The whole text, at the end of a stream."""

    type: Literal["transcript.text.done"]
    text: str


class TranscriptionEvent(pydantic.RootModel[TranscriptDelta | TranscriptDone]):
    """An event of a stream."""
