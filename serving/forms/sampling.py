"""The parameters that completions and chat completions share: sampling, stop strings, and the
format of the answer."""

import json
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Interval

from configs.schema.serve import Serve
from serving.errors import invalid
from serving.forms.form import Form, Part, numbers, text_of

Signed64 = Annotated[int, Interval(ge=-(1 << 63), le=(1 << 63) - 1)]


class StreamOptions(Part):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Prediction(Part):
    """A text that the answer is expected to resemble."""

    type: Literal["content"]
    content: str | list[dict[str, Any]]

    @property
    def text(self) -> str:
        """Return the text. Raises `ApiError` for a part that is not a text."""
        return text_of(self.content, "prediction")


class JsonSchema(Part):
    """A JSON schema with a name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = pydantic.Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    """The format of an answer: text, any JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class WritingForm(Form):
    """The parameters of answers that are generated token by token."""

    n: Annotated[int, Ge(1)] = 1
    stop: str | list[str] = pydantic.Field(default_factory=list)
    seed: Signed64 | None = None
    temperature: Annotated[float, Interval(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Interval(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Interval(ge=0, le=1 << 20)] = 0
    min_p: Annotated[float, Interval(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Interval(gt=0, le=100)] = 1.0
    frequency_penalty: Annotated[float, Interval(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Interval(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[str, float], pydantic.BeforeValidator(numbers)] = pydantic.Field(
        default_factory=dict
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    prediction: Prediction | None = None
    response_format: ResponseFormat | None = None

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self, limits: Serve) -> None:
        """Raise `ApiError` for what exceeds the server's limits."""
        stops = self.stops
        within(self.n, limits.max_n, "n")
        within(len(stops), limits.max_stops, "stop", "strings")
        longest = max(map(len, stops), default=0)
        within(longest, limits.max_stop_characters, "stop", "characters each")
        within(len(self.logit_bias), limits.max_bias_tokens, "logit_bias", "tokens")
        wanted = self.response_format and self.response_format.json_schema
        if wanted and wanted.schema_:
            size = len(json.dumps(wanted.schema_))
            within(size, limits.max_schema_bytes, "response_format", "bytes of a schema")
        if self.prediction is not None:
            size = len(self.prediction.text)
            within(size, limits.max_input_characters, "prediction", "characters")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is for stream: true", "stream_options")

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


def within(value: int, most: int, param: str, unit: str = "") -> None:
    """Raise `ApiError` if a parameter exceeds a limit of the server. unit: what is counted, for the
    message."""
    if value > most:
        raise invalid(f"{param} is at most {most} {unit}".rstrip() + f" here, not {value}", param)
