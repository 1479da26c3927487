"""Answers of completions and chat completions: generated texts, in one body or as a stream."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pydantic_core
from starlette.requests import Request
from starlette.responses import Response

from inference.engine.job import Job
from inference.requests import Completion
from serving.answers import Answers
from serving.forms.answers import AnswerModel, Usage
from serving.responses import EventStream, fast_json_response, unless_client_leaves
from serving.service import Service
from serving.texts import Piece, TextWriter, completions, pieces, usage


class AnswerBody(ABC):
    """Builds the bodies of the answer to one request."""

    @abstractmethod
    def whole(self, jobs: Sequence[Job], texts: Sequence[Completion], used: Usage) -> AnswerModel:
        """Return the body with all texts. Fields that are not set are left out of its JSON."""

    @abstractmethod
    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the events for a part of a text. For the last part, they include the event that
        ends the text."""

    @abstractmethod
    def usage_chunk(self, used: Usage) -> dict[str, Any]:
        """Return the event with the token counts."""


async def write(
    service: Service,
    texts: TextWriter,
    request: Request,
    jobs: Sequence[Job],
    body: AnswerBody,
    *,
    texts_per_prompt: int,
    is_streamed: bool,
    includes_usage: bool,
) -> Response:
    """Generate the texts of `jobs`, and return the response with them: `body` builds its content.

    texts_per_prompt: number of consecutive jobs with the same prompt. includes_usage: whether a
    stream ends with the token counts. Raises `ApiError` if the queue is full, for a text that
    failed, and when a deadline has passed.
    """
    client = service.client_of(request)
    arrival = request.state.arrival
    answers = texts.answers(jobs, client=client, arrival=arrival, is_streamed=is_streamed)
    answers.open()
    if is_streamed:
        events = _events(service, request, answers, jobs, body, texts_per_prompt, includes_usage)
        return EventStream(events, request.state.request_id, on_close=answers.close)
    try:
        done = await unless_client_leaves(request.receive, completions(answers, jobs))
    finally:
        answers.close()
    used = usage(jobs, texts_per_prompt)
    service.metrics.count_tokens(used)
    service.log_content(request, "answer", lambda: [one.text for one in done])
    return await asyncio.to_thread(
        lambda: fast_json_response(body.whole(jobs, done, used), exclude_unset=True)
    )


async def _events(
    service: Service,
    request: Request,
    answers: Answers,
    jobs: Sequence[Job],
    body: AnswerBody,
    texts_per_prompt: int,
    includes_usage: bool,
) -> AsyncIterator[dict[str, Any] | bytes]:
    nothing: dict[str, Any] = {"usage": None} if includes_usage else {}
    has_logprobs = any(job.request.logprobs for job in jobs)
    is_first, now = True, asyncio.get_running_loop().time
    async for piece in pieces(answers, jobs):
        if is_first:
            service.metrics.first_token_seconds.observe(now() - request.state.arrival.header)
            is_first = False
        make = partial(_events_of, body, piece, nothing)
        # In a thread: while a tool call is incomplete, thousands of log-probabilities can collect.
        for event in await asyncio.to_thread(make) if has_logprobs else make():
            yield event
    used = usage(jobs, texts_per_prompt)
    service.metrics.count_tokens(used)
    service.log_content(
        request, "answer", lambda: [one.completion and one.completion.text for one in jobs]
    )
    if includes_usage:
        yield body.usage_chunk(used)


def _events_of(body: AnswerBody, piece: Piece, added: dict[str, Any]) -> list[bytes]:
    """Return the events for a part of a text as JSON, each with the members in `added`."""
    return [pydantic_core.to_json(chunk | added) for chunk in body.chunks(piece)]
