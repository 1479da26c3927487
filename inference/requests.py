"""Requests to a text generator, its completions, and the error for a wrong request."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from configs.errors import UsageError

if TYPE_CHECKING:
    from inference.engine.constraints import Constraint


class RequestError(UsageError):
    """Raised for a wrong field of a request. `field` is the name of the field; the message begins
    with it."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field} {problem}")
        self.field = field


@dataclass(frozen=True)
class Sampling:
    """Settings for sampling the next token, in the order in which they are applied.

    repetition_penalty: lowers the probability of tokens that occur in the prompt or the text (1:
        none).
    frequency_penalty: lowers the logit of a token for each time it was generated (0: none).
    presence_penalty: lowers the logit of a token once if it was generated (0: none).
    logit_bias: pairs (id, bias); the bias is added to the token's logit.
    temperature: flattens (> 1) or sharpens (< 1) the distribution; 0 takes the likeliest token.
    top_k: keeps the k likeliest tokens (0: all).
    top_p: keeps the smallest set of tokens with a total probability of at least p (1: all).
    min_p: keeps the tokens at least p times as likely as the likeliest one (0: all).
    seed: the text depends on it and on the prompt, but not on other requests that run at the same
        time.

    Raises `RequestError` for a value out of its range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    def __post_init__(self):
        for name, holds, range_ in (
            ("temperature", self.temperature >= 0, ">= 0"),
            ("top_k", self.top_k >= 0, ">= 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "> 0"),
            ("frequency_penalty", abs(self.frequency_penalty) <= 2, "between -2 and 2"),
            ("presence_penalty", abs(self.presence_penalty) <= 2, "between -2 and 2"),
            ("seed", 0 <= self.seed < 2**32, "between 0 and 4294967295"),
        ):
            if not holds:
                raise RequestError(name, f"must be {range_}, not {getattr(self, name)}")
        for token, bias in self.logit_bias:
            if token < 0 or not -100 <= bias <= 100:
                problem = f"must be between -100 and 100 for ids of tokens, not {token}: {bias}"
                raise RequestError("logit_bias", problem)


@dataclass(frozen=True)
class Request:
    """A request to continue a prompt.

    prompt: a text, or the ids of tokens, which the model reads as they are; an empty text starts a
    new document. The text ends at the end of the document, before the first of the `stop` strings,
    at one of the `stop_tokens` (ids), or after `max_tokens` tokens. With `prompt_logprobs`,
    `max_tokens` may be 0: then only the prompt is scored, which may have one token more than the
    model's context.

    constraint: a constraint that the text must match as a whole; None for any text.
    logprobs, prompt_logprobs: whether to return the log-probabilities of the generated tokens, or
        of the prompt's tokens.
    repeat: numbers several texts for the same prompt and seed: 0, 1, 2, ... Each number gives
        another text.
    context_shift: whether a text that fills the model's context continues with the last half of it
        in view; otherwise the text ends there.
    speculation: whether to guess several next tokens at a time from the prompt and the text so far.
        The answer stays the same; it comes sooner if the text repeats itself.
    prediction: a text that the answer is expected to resemble, or its ids. Tokens are guessed from
        it too. It turns speculation on.

    Raises `RequestError` for a value out of its range.
    """

    prompt: str | tuple[int, ...]
    max_tokens: int = 200
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: tuple[int, ...] = ()
    logprobs: bool = False
    prompt_logprobs: bool = False
    repeat: int = 0
    context_shift: bool = False
    constraint: "Constraint | None" = None
    speculation: bool = False
    prediction: str | tuple[int, ...] | None = None

    def __post_init__(self):
        least = 0 if self.prompt_logprobs else 1
        if self.max_tokens < least:
            raise RequestError("max_tokens", f"must be >= {least}, not {self.max_tokens}")
        if self.prompt == ():
            raise RequestError("prompt", "must have a token")
        if "" in self.stop:
            raise RequestError("stop", "must not be empty: every text would end at once")
        for token in self.stop_tokens:
            if not isinstance(token, int) or token < 0:
                raise RequestError("stop_tokens", f"must be ids of tokens, not {token!r}")
        for name in ("logprobs", "prompt_logprobs", "context_shift", "speculation"):
            if not isinstance(getattr(self, name), bool):
                problem = f"must be true or false, not {getattr(self, name)!r}"
                raise RequestError(name, problem)
        if not isinstance(self.prediction, str | tuple | None):
            raise RequestError("prediction", f"must be a text, not {self.prediction!r}")

    @property
    def speculates(self) -> bool:
        """Return whether tokens are guessed for this request."""
        return self.speculation or self.prediction is not None


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability (natural logarithm) under the model's distribution, before
    penalties and temperature; and the likeliest tokens at its position, with their
    log-probabilities."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Completion:
    """The continuation of a prompt.

    `text` contains neither the prompt nor the stop string. `prompt_tokens` is the number of tokens
    that the model read. `tokens` is the number of generated tokens that are at least partly in
    `text`. `finish` says what ended the text: "separator" (the model ended the document), "stop" (a
    stop string or token), "length" (`max_tokens`, or the end of the context) or "cancelled".
    `logprobs` and `prompt_logprobs` are empty unless the request sets the fields of the same names;
    the first token of a prompt has none. `accepted_tokens` and `rejected_tokens` are the numbers of
    tokens that were guessed by speculation and turned out right or wrong.
    """

    prompt: str | tuple[int, ...]
    prompt_tokens: int
    tokens: int
    text: str
    finish: Literal["separator", "stop", "length", "cancelled"]
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    @property
    def finish_reason(self) -> str:
        """Return `finish` in the words of OpenAI's API: "stop", "length" or "cancelled"."""
        return "stop" if self.finish == "separator" else self.finish
