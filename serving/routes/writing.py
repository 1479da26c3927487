"""What completions and conversations share: texts of jobs, as one answer or as a stream."""

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
    """Makes the bodies of one request's answer."""

    @abstractmethod
    def whole(self, jobs: Sequence[Job], texts: Sequence[Completion], used: Usage) -> AnswerModel:
        """Return the body with all texts; its JSON leaves out the fields that are not set."""

    @abstractmethod
    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the events for a part of a text; with the last part, the one that ends it."""

    @abstractmethod
    def usage_chunk(self, used: Usage) -> dict[str, Any]:
        """Return the event with the numbers of tokens."""


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
    """Let the engine write the texts of `jobs`, and answer with them."""
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
        # Thousands of log-probabilities are one event where a call of a tool is held back.
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
    """Return the events for a part of a text as JSON, each with the members `added`."""
    return [pydantic_core.to_json(chunk | added) for chunk in body.chunks(piece)]
