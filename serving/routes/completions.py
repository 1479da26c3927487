"""`/v1/completions`: texts that continue prompts."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference.engine.job import Job
from inference.requests import Completion, TokenLogprob
from serving.forms.answers import Usage, finite
from serving.forms.completions import (
    CompletionAnswer,
    CompletionChoice,
    CompletionForm,
    CompletionLogprobs,
)
from serving.route import Route
from serving.routes.writing import AnswerBody, write
from serving.service import Service
from serving.texts import Piece, Prompt, TokenTexts


def routes(service: Service) -> list[Route]:
    """Return the route for completions; none for a model that does not generate text token by
    token."""
    if (texts := service.texts) is None:
        return []

    async def complete(request: Request) -> Response:
        form = await service.read(request, CompletionForm)
        prompts = await texts.prompts(form.prompts)
        has_scores = form.logprobs is not None
        jobs = await texts.prepare(
            prompts,
            form,
            client=service.client_of(request),
            param="prompt",
            max_tokens=form.max_tokens,
            logprobs=has_scores,
            prompt_logprobs=form.max_tokens == 0 or (form.echo and has_scores),
        )
        return await write(
            service,
            texts,
            request,
            jobs,
            _CompletionBody(service, texts.tokens, form, prompts),
            texts_per_prompt=form.n,
            is_streamed=form.stream,
            includes_usage=form.includes_usage,
        )

    return [
        Route(
            "POST",
            "/v1/completions",
            complete,
            "Continues prompts.",
            form=CompletionForm,
            answer=CompletionAnswer,
            streams=True,
            example={"model": service.name, "prompt": "Once upon a time", "max_tokens": 32},
        )
    ]


class _CompletionBody(AnswerBody):
    def __init__(
        self,
        service: Service,
        tokens: TokenTexts,
        form: CompletionForm,
        prompts: Sequence[Prompt],
    ):
        self._tokens, self._form = tokens, form
        self._prompts = [prompt for prompt in prompts for _ in range(form.n)]
        self._head: dict[str, Any] = {
            "id": "cmpl-" + secrets.token_hex(12),
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
        }
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def whole(
        self, jobs: Sequence[Job], texts: Sequence[Completion], used: Usage
    ) -> CompletionAnswer:
        choices = (
            CompletionChoice(
                index=index,
                text=(self._prompts[index].text if self._form.echo else "") + completion.text,
                logprobs=self._logprobs(job, index),
                finish_reason=completion.finish_reason,
            )
            for index, (job, completion) in enumerate(zip(jobs, texts, strict=True))
        )
        return CompletionAnswer(**self._head, choices=choices, usage=used)

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        index, text = piece.index, piece.text
        scores = None
        if self._form.logprobs is not None:
            start = self._offsets.get(index, 0)
            scores = scored(piece.logprobs, self._tokens, self._form.logprobs, start).model_dump()
            self._offsets[index] = start + sum(map(len, scores["tokens"]))
        if self._form.echo and index not in self._begun:
            text = self._prompts[index].text + text
        self._begun.add(index)
        reason = None if piece.completion is None else piece.completion.finish_reason
        choice = {"index": index, "text": text, "logprobs": scores, "finish_reason": reason}
        return [self._head | {"choices": [choice]}]

    def usage_chunk(self, used: Usage) -> dict[str, Any]:
        return self._head | {"choices": [], "usage": used.model_dump()}

    def _logprobs(self, job: Job, index: int) -> CompletionLogprobs | None:
        if self._form.logprobs is None:
            return None
        tokens, most = self._tokens, self._form.logprobs
        if not self._form.echo:
            return scored(job.logprobs, tokens, most)
        opening = self._prompts[index].opening
        scores: list[TokenLogprob | int] = [*job.prompt_logprobs[max(opening - 1, 0) :]]
        if not opening:
            scores.insert(0, job.ids[0])  # It has no log-probability.
        scores += job.logprobs
        if job.end_logprob is not None:  # Clients expect an entry for each sampled token.
            scores.append(job.end_logprob)
        return scored(scores, tokens, most)


def scored(
    scores: Sequence[TokenLogprob | int], tokens: TokenTexts, most: int, offset: int = 0
) -> CompletionLogprobs:
    """Return log-probabilities in the format of completions.

    scores: one for each token; a token without a log-probability is given by its id alone. most:
    number of alternatives to return. offset: the position of the first token in the text, in
    characters.
    """
    result = CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for score in scores:
        token = score if isinstance(score, int) else score.token
        text = tokens.text(token)
        result.tokens.append(text)
        result.text_offset.append(offset)
        offset += len(text)
        if isinstance(score, int):
            result.token_logprobs.append(None)
            result.top_logprobs.append(None)
            continue
        result.token_logprobs.append(finite(score.logprob))
        best = {tokens.text(other): finite(value) for other, value in score.top[:most]}
        result.top_logprobs.append({text: finite(score.logprob)} | best if most else {})
    return result
