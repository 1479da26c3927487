"""Parts that the bodies of several routes' answers share."""

import math

import pydantic

UNLIKELY = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class AnswerModel(pydantic.BaseModel):
    """Base class of the bodies of answers."""


class PromptTokensDetails(AnswerModel):
    """Tokens of the prompt that did not have to be read again."""

    cached_tokens: int = 0


class CompletionTokensDetails(AnswerModel):
    """Tokens of a predicted text that were right, and wrong."""

    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(AnswerModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else UNLIKELY


class State(AnswerModel):
    """Whether the server can answer: ok, ready, compiling, stopping or failed."""

    status: str


class ModelCard(AnswerModel):
    """A model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "triform"


class ModelList(AnswerModel):
    """All models."""

    object: str = "list"
    data: list[ModelCard]


class Error(AnswerModel):
    """What is wrong. request_id: what the log calls the request."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str = ""


class ErrorAnswer(AnswerModel):
    """An answer with an error."""

    error: Error
