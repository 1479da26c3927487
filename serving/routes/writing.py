"""What completions and conversations share: texts of jobs, as one answer or as a stream."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference.engine.job import Job
from inference.requests import Completion
from serving.answers import Answers
from serving.forms.answers import Usage
from serving.responses import EventStream, json_response, unless_client_leaves
from serving.service import Service
from serving.texts import Piece, TextWriter, completions, pieces, usage


class AnswerBody(ABC):
    """Makes the bodies of one request's answer."""

    @abstractmethod
    def whole(self, jobs: Sequence[Job], texts: Sequence[Completion], used: Usage) -> Any:
        """Return the body with all texts."""

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
    answers = texts.answers(jobs, client=client, is_streamed=is_streamed)
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
    service.log_content(request, "answer", [one.text for one in done])
    return json_response(body.whole(jobs, done, used))


async def _events(
    service: Service,
    request: Request,
    answers: Answers,
    jobs: Sequence[Job],
    body: AnswerBody,
    texts_per_prompt: int,
    includes_usage: bool,
) -> AsyncIterator[dict[str, Any]]:
    nothing: dict[str, Any] = {"usage": None} if includes_usage else {}
    began, is_first = time.perf_counter(), True
    async for piece in pieces(answers, jobs):
        if is_first:
            service.metrics.first_token_seconds.observe(time.perf_counter() - began)
            is_first = False
        for chunk in body.chunks(piece):
            yield chunk | nothing
    used = usage(jobs, texts_per_prompt)
    service.metrics.count_tokens(used)
    service.log_content(request, "answer", [one.completion and one.completion.text for one in jobs])
    if includes_usage:
        yield body.usage_chunk(used)
