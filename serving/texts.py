"""Text generation: turns the forms of requests into jobs of the engine, and their progress into
events."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from configs.errors import UsageError
from configs.schema.serve import Serve
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import CONSTRAINT_FIELDS
from inference.engine.engine import Engine
from inference.engine.job import Job
from inference.engine.token_bytes import TokenBytes
from inference.predictors.completion import TextCompletion, numbered
from inference.requests import Completion, TokenLogprob
from serving.answers import Answers, Arrival
from serving.errors import as_api_error, internal_error, invalid
from serving.forms.answers import CompletionTokensDetails, PromptTokensDetails, Usage
from serving.forms.sampling import ResponseFormat, WritingForm
from serving.threads import FairThreads
from serving.worker import Lane, Worker

LEAST_TOP_P = 1e-6
"""Replaces a `top_p` of 0. Like 0, it leaves only the likeliest token."""

MOST_GRAMMARS = 16
"""Maximum number of requests of a client whose grammars are being compiled, or wait for it; others
are refused."""


@dataclass(frozen=True)
class Piece:
    """A new part of a generated text. index: the number of the text in the request. logprobs: those
    of the part's tokens. completion: the complete text if this is its last part, else None."""

    index: int
    text: str
    logprobs: Sequence[TokenLogprob]
    completion: Completion | None


@dataclass(frozen=True)
class Prompt:
    """A prompt. text: as the client sent it, or decoded from its token ids; empty for a
    conversation. ids: the tokens that the model reads. opening: how many of them only mark the
    beginning of the document."""

    text: str
    ids: tuple[int, ...]
    opening: int


class TokenTexts:
    """Converts the tokens of a vocabulary to text and to bytes."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._specials = {number: name for name, number in tokenizer.special_tokens().items()}
        try:
            self._pieces: list[bytes] | None = TokenBytes(tokenizer).pieces
        except ValueError:  # A text is not the concatenation of its tokens' bytes.
            self._pieces = None

    def bytes_of(self, token: int) -> bytes | None:
        """Return the bytes of a token's text; None for a special token, and for one without a text
        of its own."""
        if token in self._specials:
            return None
        if self._pieces is not None:
            return self._pieces[token] or None
        return self._tokenizer.decode([token]).encode()

    def text(self, token: int) -> str:
        """Return a token as text. Bytes that are only a part of a character are written like
        `bytes:\\xe2`, as OpenAI does."""
        if token in self._specials:
            return self._specials[token]
        content = self.bytes_of(token) or b""
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class TextWriter:
    """Generates the texts of requests with an engine that all requests share.

    tokenizer: encodes prompts as they are, without a chat template. context: the number of tokens
    that the model can attend to; None if it is unlimited.
    """

    def __init__(
        self,
        engine: Engine,
        lane: Lane,
        worker: Worker,
        tokenizer: Tokenizer,
        *,
        context: int | None,
        limits: Serve,
    ):
        self._engine, self._lane, self._worker = engine, lane, worker
        self.tokenizer, self.context, self._limits = tokenizer, context, limits
        self.tokens = TokenTexts(tokenizer)
        # A thread of its own, so that schemas that take long to compile delay only each other.
        self._grammar_thread = FairThreads(1, most_of_one=MOST_GRAMMARS, name="grammar")

    def stop(self) -> None:
        """Stop the thread that compiles grammars, without waiting for one that is being
        compiled."""
        self._grammar_thread.stop()

    async def prompts(self, given: Sequence[str | Sequence[int]]) -> list[Prompt]:
        """Tokenize prompts in a thread. A text gets the tokens that open a document; ids are kept
        as they are. Raises `ApiError` for more than the queue can take."""
        ids = sum(len(prompt) for prompt in given if not isinstance(prompt, str))
        self._worker.check_room(len(given), ids)
        return await asyncio.to_thread(lambda: [self._prompt(prompt) for prompt in given])

    def _prompt(self, given: str | Sequence[int]) -> Prompt:
        if not isinstance(given, str):
            return Prompt(self.tokenizer.decode(given), tuple(given), 0)
        ids = self.tokenizer.encode(given)
        opening = self.tokenizer.opening if len(ids) else self.tokenizer.document_opening
        return Prompt(given, (*opening.tolist(), *ids.tolist()), len(opening))

    def room(self, prompt_tokens: int) -> int:
        """Return the maximum number of tokens of an answer to a prompt with `prompt_tokens`
        tokens."""
        most = self._limits.max_tokens
        return most if self.context is None else max(min(self.context - prompt_tokens + 1, most), 1)

    async def prepare(
        self,
        prompts: Sequence[Prompt],
        form: WritingForm,
        *,
        client: str,
        param: str,
        **options: Any,
    ) -> list[Job]:
        """Return the jobs of a request, `form.n` for each prompt. They are made in a thread.

        client: the client that sent the request. param: the parameter that contains the prompts,
        for error messages. options: fields of `inference.predictors.completion.TextCompletion`.
        Raises `ApiError` for what the engine refuses, and for more than the queue can take.
        """
        tokens = form.n * sum(len(prompt.ids) for prompt in prompts)
        self._worker.check_room(form.n * len(prompts), tokens)
        work = partial(self._prepare, prompts, form, param, options)
        constraint = constraint_fields(form.response_format).keys() | options.keys()
        if constraint.isdisjoint(CONSTRAINT_FIELDS):
            return await asyncio.to_thread(work)
        full = "too many schemas wait to be compiled here"
        return await self._grammar_thread.run(client, work, full=full)

    def _prepare(
        self,
        prompts: Sequence[Prompt],
        form: WritingForm,
        param: str,
        options: dict[str, Any],
    ) -> list[Job]:
        try:
            fields = writing_fields(form) | options
            if form.prediction is not None:  # the same tokens for all jobs
                ids = self.tokenizer.encode(form.prediction.text)
                fields["prediction"] = tuple(ids[: self._engine.text_room].tolist())
            requests = TextCompletion.parse(fields | {"prompt": [one.ids for one in prompts]})
            return [self._engine.prepare(request, name=param) for request in numbered(requests)]
        except UsageError as error:
            raise as_api_error(error, param) from None

    def answers(
        self, jobs: Sequence[Job], *, client: str, arrival: Arrival, is_streamed: bool
    ) -> Answers:
        """Return the answers of jobs. If they are streamed, the contents of their events are
        `Piece`s. client, arrival: who sent the request, and when."""
        answers = Answers(
            self._worker,
            self._lane,
            jobs,
            client=client,
            tokens=[job.prompt_tokens for job in jobs],
            limits=self._limits,
            arrival=arrival,
            is_streamed=is_streamed,
        )
        if is_streamed:
            for index, job in enumerate(jobs):
                job.on_text = partial(_pass_on, answers.part, job, index, [0])
        return answers


def _pass_on(
    part: Callable[[int, Piece], None],
    job: Job,
    index: int,
    passed: list[int],
    text: str,
    completion: Completion | None,
) -> None:
    """Pass on a part of a job's text, with the log-probabilities that the job has got since the
    last part. passed: a list of one number, how many log-probabilities have been passed on; it is
    updated."""
    logprobs = job.logprobs[passed[0] :]
    passed[0] = len(job.logprobs)
    part(index, Piece(index, text, logprobs, completion))


async def pieces(answers: Answers, jobs: Sequence[Job]) -> AsyncIterator[Piece]:
    """Yield the parts of texts as they are generated. Raises `ApiError` for a text that failed."""
    async for event in answers:
        if event.is_end or event.content.completion is not None:
            check(jobs[event.index])
        if not event.is_end:
            yield event.content


async def completions(answers: Answers, jobs: Sequence[Job]) -> list[Completion]:
    """Wait for all texts, and return them. Raises `ApiError` for a text that failed."""
    await answers.wait()
    return [check(job) for job in jobs]


def check(job: Job) -> Completion:
    """Return the completion of a job that is done. Raises `ApiError` if the job failed."""
    if job.error is not None:
        raise as_api_error(job.error)
    if job.completion is None or job.completion.finish == "cancelled":
        raise internal_error()
    return job.completion


def usage(jobs: Sequence[Job], texts_per_prompt: int) -> Usage:
    """Return the token counts of a request. texts_per_prompt: number of consecutive jobs with the
    same prompt, which is counted once."""
    read = sum(job.prompt_tokens for job in jobs[::texts_per_prompt])
    written = sum(job.completion.tokens for job in jobs if job.completion is not None)
    return Usage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(job.cached_tokens for job in jobs[::texts_per_prompt])
        ),
        completion_tokens_details=CompletionTokensDetails(
            accepted_prediction_tokens=sum(job.accepted for job in jobs),
            rejected_prediction_tokens=sum(job.rejected for job in jobs),
        ),
    )


def writing_fields(form: WritingForm) -> dict[str, Any]:
    """Return the fields of `TextCompletion` that a form sets. Without a seed in the form, a random
    one is set."""
    seed = secrets.randbits(32) if form.seed is None else _seed_of(form.seed)
    fields: dict[str, Any] = {
        name: getattr(form, name)
        for name in (
            "n",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
        )
    }
    fields |= {"seed": seed, "stop": tuple(form.stops)}
    fields["top_p"] = max(form.top_p, LEAST_TOP_P)
    if form.logit_bias:
        fields["logit_bias"] = form.logit_bias
    return fields | constraint_fields(form.response_format)


def constraint_fields(wanted: ResponseFormat | None) -> dict[str, str]:
    """Return the fields of `TextCompletion` that constrain the answer to `response_format`; none
    for text. Raises `ApiError` if the schema is missing."""
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_object":
        return {"json_schema": '{"type": "object"}'}
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise invalid("response_format.json_schema.schema is missing", "response_format")
    return {"json_schema": json.dumps(wanted.json_schema.schema_)}


def _seed_of(seed: int) -> int:
    """Return a seed of 32 bits for a seed of 64 bits."""
    seed &= 2**64 - 1
    return (seed ^ seed >> 32) & 0xFFFFFFFF
