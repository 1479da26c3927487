"""Parts of answer bodies that several routes share."""

import math

import pydantic

UNLIKELY = -9999.0
"""Replaces a log-probability of minus infinity, which JSON does not have."""


class AnswerModel(pydantic.BaseModel):
    """Base class of the bodies of answers."""


class PromptTokensDetails(AnswerModel):
    """cached_tokens: number of prompt tokens whose states were kept from an earlier prompt."""

    cached_tokens: int = 0


class CompletionTokensDetails(AnswerModel):
    """Numbers of tokens of `prediction` that matched the answer, and that did not."""

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
    """Return a log-probability, or `UNLIKELY` if it is not finite."""
    return logprob if math.isfinite(logprob) else UNLIKELY


class State(AnswerModel):
    """The state of the server: ok, ready, compiling, stopping or failed."""

    status: str


class ModelCard(AnswerModel):
    """The model that is served. created: when the server started, in seconds of Unix time."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "triform"


class ModelList(AnswerModel):
    """A list with the model that is served."""

    object: str = "list"
    data: list[ModelCard]


class Error(AnswerModel):
    """An error. param: the parameter that is wrong. request_id: the id of the request in the
    log."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str = ""


class ErrorAnswer(AnswerModel):
    """An answer with an error."""

    error: Error
