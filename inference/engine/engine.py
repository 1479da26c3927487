"""Continuous batching: requests wait for a free slot, their prompts are read in chunks, and their
texts are generated together.

The host and the device work at the same time: while the device takes some steps, the host turns the
tokens of the previous steps into texts. The steps that the device takes at once are a dispatch.
"""

import itertools
import queue
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.errors import UsageError
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import ConstraintCompiler
from inference.engine.job import Job, OnText, options_of, token_logprobs
from inference.engine.lookup import TEXT_ROOM, Lookup, idle_lookup, lookup_of
from inference.engine.prefix_cache import PrefixCache
from inference.engine.programs import LOGPROBS, MASKS, SPECULATION, Programs
from inference.engine.slots import MOST_STEPS, NOTHING, UNMASKED, Slots
from inference.requests import Request, RequestError
from inference.sampling import row_key
from model.layers.states import ModelState

DISPATCH_SECONDS = 0.05
"""Approximate time of a dispatch while texts are streamed, or requests wait or could start."""

PREFILL_TOKENS = 512
"""Approximate number of prompt tokens that are read between two dispatches."""

DISPATCHES_BEFORE_SHRINKING = 8
"""Number of dispatches in a row with more slots or room than needed, after which these shrink."""

SHORTEST_PREFILL, LONGEST_PREFILL = 16, 512
"""Shortest and longest chunk of a prompt. Each length in between is twice the one before."""

SCORED_PREFILL = 64
"""Length of the chunks of a prompt whose log-probabilities are requested."""


FULL_BATCH = 8
"""With at least this many slots, no tokens are guessed while all of them are busy."""

STEPS_IN_COMPANY = 8
"""Largest number of steps of a dispatch with speculation in several slots. Meanwhile, slots with
right guesses may generate up to `MOST_STEPS` tokens."""


@dataclass
class _Dispatch:
    """Steps that the device takes.

    jobs: the jobs that take part, by slot.
    drawn: the tokens, as `decode` or `speculate` returns them; they may not be computed yet.
    steps: the number of steps that was requested.
    speculates: whether it is a call of `speculate`.
    began: when it began, by `time.perf_counter`.
    """

    jobs: dict[int, Job]
    drawn: Any  # jax.Array, whose type stubs have no is_ready
    steps: int
    speculates: bool
    began: float


class Engine:
    """Generates the texts of requests with one model, in slots that share each step.

    params: the model's arrays, from `nnx.split`.
    context: the number of tokens that the model can attend to; None if that is unlimited.
    sizes: numbers of slots for which programs are compiled, in rising order.
    rooms: numbers of tokens for which a slot can have room, in rising order; None for `context`
        alone. Without a context, they have no effect.
    prefix_cache: keeps states after prompts; None to read every prompt as a whole.
    dispatch_seconds: the approximate time of a dispatch that should be short.
    expects_more: whether requests may arrive at any time, as in a server, and should start soon. A
        dispatch then ends when a slot may become free, and is short while one is free.

    The engine uses the smallest of `sizes` and of `rooms` that suffice for the current requests and
    their texts so far; the room grows with them.

    Attributes: `limit` is the largest number of tokens of a prompt and its text together; None if
    there is no limit. `text_room` is the number of tokens of a text and its prediction in which
    speculation can search.

    The engine runs in the thread that calls `step`; `submit` and `cancel` may be called from other
    threads.
    """

    def __init__(
        self,
        programs: Programs,
        params: Any,
        tokenizer: Tokenizer,
        *,
        context: int | None,
        sizes: Sequence[int] = (1, 4, 16),
        rooms: Sequence[int] | None = None,
        prefix_cache: PrefixCache | None = None,
        dispatch_seconds: float = DISPATCH_SECONDS,
        expects_more: bool = False,
    ):
        self._programs, self._params, self._tokenizer = programs, params, tokenizer
        self._prefix_cache = prefix_cache
        self._constraints = ConstraintCompiler(tokenizer)
        self._sizes, self._dispatch_seconds = tuple(sizes), dispatch_seconds
        self._expects_more = expects_more
        self._rooms = (1,) if context is None else tuple(rooms or (context,))
        self.limit = None if context is None else min(self._rooms[-1], context)
        # Room for a prediction as long as the context, besides the text.
        self.text_room = TEXT_ROOM if self.limit is None else 2 * self.limit
        self._submitted: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._slots: Slots | None = None
        self._room = self._rooms[0]
        self._jobs: list[Job | None] = []
        self._empty_row: ModelState | None = None
        self._in_flight: _Dispatch | None = None
        self._dispatches_too_large = 0
        self._seconds_per_step = 0.0
        self._last_read = 0.0

    def submit(
        self, request: Request, on_text: OnText | None = None, *, name: str = "the prompt"
    ) -> Job:
        """Add a request. When its text has ended, it is in `Job.completion`. Arguments and errors
        are those of `prepare`."""
        job = self.prepare(request, on_text, name=name)
        self.add(job)
        return job

    def add(self, job: Job) -> None:
        """Add a job that `prepare` made."""
        self._submitted.put(job)

    def prepare(
        self, request: Request, on_text: OnText | None = None, *, name: str = "the prompt"
    ) -> Job:
        """Tokenize a request and compile its constraint; return the job. May be called from any
        thread.

        on_text: called with each new piece of the text, in the thread that calls `step`.
        name: the name of the prompt in error messages.

        Raises `UsageError` for a prompt longer than the context; `RequestError` for ids outside the
        vocabulary, and for a constraint that no text of the vocabulary matches; ValueError if the
        request uses an option that the programs don't have.
        """
        self._check_ids(request)
        if missing := options_of([request]) - self._programs.options:
            raise ValueError(f"the programs have no {', '.join(sorted(missing))}")
        constraint = None
        if request.constraint is not None:
            constraint = self._constraints.start(request.constraint)
        job = Job(request, self._tokenizer, on_text, constraint)
        is_only_scored = request.max_tokens == 0  # The last token is not read.
        if self.limit is not None and job.prompt_tokens - is_only_scored > self.limit:
            raise UsageError(
                f"{name} has {job.prompt_tokens} tokens, and the context of this model only "
                f"{self.limit}: shorten the prompt"
            )
        return job

    def _check_ids(self, request: Request) -> None:
        """Raise `RequestError` if the request has ids outside the vocabulary."""
        known = self._tokenizer.vocabulary_size
        ids = {
            "prompt": () if isinstance(request.prompt, str) else request.prompt,
            "logit_bias": [token for token, _ in request.sampling.logit_bias],
            "stop_tokens": request.stop_tokens,
            "prediction": request.prediction if isinstance(request.prediction, tuple) else (),
        }
        for field, given in ids.items():
            if not all(0 <= token < known for token in given):
                raise RequestError(field, f"must have ids of tokens from 0 to {known - 1}")

    @property
    def busy_slots(self) -> int:
        """Return the number of slots that have a job."""
        return sum(job is not None for job in self._jobs)

    def cancel(self, job: Job) -> None:
        """End a job. Its slot becomes free at the next step."""
        job.is_cancelled = True

    def run(self) -> None:
        """Run steps until every request has its completion."""
        while self.step():
            pass

    def warm_up(self) -> None:
        """Compile all programs that any mixture of requests may need."""
        programs, params, last = self._programs, self._params, self._rooms[-1]
        row_key(0, 0, 0)
        idle_row = programs.idle_rows(1, self.text_room)
        row = programs.initial_row(params, last)
        for length in self._chunk_lengths():
            programs.prefill(params, row, *np.zeros((2, 1, length), np.int32))
        if LOGPROBS in programs.options:
            programs.prefill(params, row, *np.zeros((3, 1, SCORED_PREFILL), np.int32))
        for size, room in itertools.product(self._sizes, self._rooms):
            idle = programs.idle_rows(size, self.text_room)
            slots = programs.initial_slots(params, idle, room)
            slots = programs.admit(params, slots, np.int32(0), row, idle_row)
            masks_BW = self._masks({}, size)
            nobody_B = np.zeros(size, bool)
            slots, _ = programs.decode(params, slots, nobody_B, np.int32(0), masks_BW)
            if SPECULATION in programs.options:
                slots, _ = programs.speculate(params, slots, nobody_B, np.int32(0), masks_BW)
            if self._prefix_cache is not None or MASKS in programs.options:
                programs.take_row(params, slots, np.int32(0), last)
            for other in set(self._sizes) - {size}:
                programs.resize(params, slots, np.zeros(other, np.int32), room)
            for other in set(self._rooms) - {room}:
                programs.resize(params, slots, np.zeros(size, np.int32), other)

    def step(self) -> bool:
        """Fill free slots, start a dispatch, and process the tokens of the previous dispatch.

        Returns whether there is more to do.
        """
        while not self._submitted.empty():
            self._waiting.append(self._submitted.get())
        self._end_cancelled()
        running = self._in_flight
        if running is not None and any(job.constraint for job in running.jobs.values()):
            self._take(running)  # The next masks depend on its tokens.
            running = None
        self._resize()
        self._fill_slots()
        self._read_prompts()
        self._in_flight = self._dispatch()
        if running is not None:
            self._take(running)
        if self._in_flight is not None and self._in_flight.drawn.is_ready():
            self._take(self._in_flight)  # It has already ended: the next step need not take it.
            self._in_flight = None
        idle = self._in_flight is None and not self._waiting and not any(self._jobs)
        return not idle or not self._submitted.empty()

    # ---- Slots.

    def _end_cancelled(self) -> None:
        for job in [*self._waiting, *filter(None, self._jobs)]:
            if job.is_cancelled:
                job.tell(job.text.end("cancelled"))
                self._release(job)
        self._waiting = deque(job for job in self._waiting if not job.is_cancelled)

    def _release(self, job: Job) -> None:
        self._jobs = [None if one is job else one for one in self._jobs]

    def _resize(self) -> None:
        """Set the number of slots and their room to what the current requests need. They shrink
        only after `DISPATCHES_BEFORE_SHRINKING`, because each change copies all states."""
        active = [slot for slot, job in enumerate(self._jobs) if job is not None]
        coming = [*self._waiting][: self._sizes[-1] - len(active)]
        working = [*filter(None, self._jobs), *coming]
        size = next(size for size in self._sizes if size >= len(working))
        needed = max((self._needed(job) for job in working), default=0)
        room = next(room for room in self._rooms if room >= needed)
        if self._slots is None:
            rows = self._programs.idle_rows(size, self.text_room)
            self._slots = self._programs.initial_slots(self._params, rows, room)
            self._jobs, self._room = [None] * size, room
            return
        is_larger = size > len(self._jobs) or room > self._room
        is_smaller = size < len(self._jobs) or room < self._room
        self._dispatches_too_large = self._dispatches_too_large + 1 if is_smaller else 0
        if is_larger and self._dispatches_too_large <= DISPATCHES_BEFORE_SHRINKING:
            size, room = max(size, len(self._jobs)), max(room, self._room)
        elif self._dispatches_too_large <= DISPATCHES_BEFORE_SHRINKING:
            return
        if size != len(self._jobs):
            self._reshape([*active, *[0] * (size - len(active))], self._room)
            jobs = [self._jobs[slot] for slot in active]
            self._jobs = [*jobs, *[None] * (size - len(jobs))]
        if room != self._room:
            self._reshape(range(size), room)
            self._room = room
        self._dispatches_too_large = 0

    def _reshape(self, kept: Sequence[int], room: int) -> None:
        kept_B = np.array(kept, np.int32)
        self._slots = self._programs.resize(self._params, self._slots, kept_B, room)

    def _needed(self, job: Job) -> int:
        """Return the number of tokens for which a job needs room in its slot: those of the next
        dispatch included, but not all that the request allows, because a step takes longer with
        more room."""
        if self.limit is None:
            return 0
        most = min(job.prompt_tokens + job.request.max_tokens, self.limit)
        if job.constraint is not None and not job.has_begun:
            return most  # `_begin` appends the tokens that the constraint determines.
        if not job.has_begun or job.state is not None:
            return min(len(job.ids) + MOST_STEPS, most)
        # With speculation, the dispatch in flight may generate more tokens than its steps.
        in_flight = MOST_STEPS if job.request.speculates else 0
        return min(job.read_granted - job.steps_left + in_flight + MOST_STEPS, most)

    def _fill_slots(self) -> None:
        for slot, job in enumerate(self._jobs):
            if job is None and self._waiting:
                job = self._jobs[slot] = self._waiting.popleft()
                self._begin(job)

    # ---- Prompts.

    def _begin(self, job: Job) -> None:
        """Give a job an empty state, or the kept state after the longest prefix of its prompt."""
        if self._empty_row is None:
            self._empty_row = self._programs.initial_row(self._params, self._rooms[-1])
        job.has_begun = True
        job.write_forced(self.limit)
        job.state = self._empty_row
        cache = self._prefix_cache
        if cache is None or job.request.prompt_logprobs:
            return
        job.keep_after = {cache.shared_length(job.unread), len(job.unread)}
        found = cache.longest(job.unread)
        if found is not None:
            job.read, job.state = found
            job.unread, job.cached_tokens = job.unread[job.read :], job.read

    def _read_prompts(self) -> None:
        """Read chunks of the prompts. Start to generate the texts whose prompts are read."""
        budget = PREFILL_TOKENS
        for slot, job in enumerate(self._jobs):
            if job is None or job.state is None:
                continue
            while job.unread and budget > 0 and job.completion is None:
                budget -= self._read_chunk(job)
            if job.completion is not None:
                self._jobs[slot] = None  # Its constraint determined all tokens.
            elif job.unread:
                continue
            elif job.request.max_tokens:
                self._admit(slot, job)
            else:
                job.end()
                self._jobs[slot] = None

    def _read_chunk(self, job: Job) -> int:
        """Read the next chunk of a job's unread tokens. Return its length, including padding."""
        last_scored = job.prompt_tokens - 1
        is_scored = job.request.prompt_logprobs and len(job.prompt_logprobs) < last_scored
        length = SCORED_PREFILL if is_scored else self._chunk_length(len(job.unread))
        ends = {*job.keep_after, last_scored} if is_scored else job.keep_after
        stop = min((end for end in ends if end > job.read), default=job.read + length)
        piece = job.unread[: min(length, stop - job.read)]
        tokens_1T, segments_1T = np.zeros((2, 1, length), np.int32)
        tokens_1T[0, : len(piece)], segments_1T[0, : len(piece)] = piece, 1
        if is_scored:
            targets_1T = np.zeros((1, length), np.int32)
            targets_1T[0, : len(piece)] = job.ids[job.read + 1 : job.read + 1 + len(piece)]
            job.state, scores = self._programs.prefill(
                self._params, job.state, tokens_1T, segments_1T, targets_1T
            )
            job.prompt_logprobs += token_logprobs(np.asarray(scores)[: len(piece)])
        else:
            job.state, _ = self._programs.prefill(self._params, job.state, tokens_1T, segments_1T)
        job.read += len(piece)
        job.unread = job.unread[len(piece) :]
        if self._prefix_cache is not None and job.read in job.keep_after:
            self._prefix_cache.add(job.ids[: job.read], job.state)
        return length

    def _chunk_length(self, tokens: int) -> int:
        """Return the length of the next chunk if `tokens` are unread."""
        return next(
            (length for length in self._chunk_lengths() if length >= tokens), LONGEST_PREFILL
        )

    def _chunk_lengths(self) -> list[int]:
        longest = min(LONGEST_PREFILL, self.limit or LONGEST_PREFILL)
        lengths, length = [], SHORTEST_PREFILL
        while length < longest:
            lengths.append(length)
            length *= 2
        return [*lengths, longest]

    def _admit(self, slot: int, job: Job) -> None:
        """Start to generate the text of a job whose prompt is read."""
        job.steps_left = job.request.max_tokens - job.written
        if self.limit is not None:
            job.steps_left = min(job.steps_left, self.limit - job.read)
        assert job.steps_left > 0, "a slot that can't write would never end its text"
        job.steps_granted = job.written + job.steps_left
        job.read_granted = job.read + job.steps_left
        row = self._programs.row_arrays(
            job.request.sampling,
            key_2=job.key,
            prompt=job.ids[: job.prompt_tokens],
            written=job.ids[job.prompt_tokens :],
            left=job.steps_left,
            logprobs=job.request.logprobs,
            lookup=self._lookup(job),
        )
        self._slots = self._programs.admit(
            self._params, self._slots, np.int32(slot), job.state, row
        )
        job.state = None

    def _lookup(self, job: Job) -> Lookup:
        """Return the tokens from which speculation guesses the next ones of a job."""
        if not job.request.speculates:
            return idle_lookup(self.text_room)
        return lookup_of(
            job.ids[: job.prompt_tokens],
            job.ids[job.prompt_tokens :],
            job.prediction,
            room=self.text_room,
            left=job.steps_left,
        )

    # ---- Steps.

    def _dispatch(self) -> _Dispatch | None:
        """Start some steps on the device, for all slots that generate. Return the dispatch; None if
        no slot generates."""
        jobs = {
            slot: job
            for slot, job in enumerate(self._jobs)
            if job is not None and job.state is None and job.steps_left > 0
        }
        masks_BW = self._masks(jobs, len(self._jobs))
        jobs = {slot: job for slot, job in jobs.items() if job.completion is None}
        if not jobs:
            return None
        steps, program = self._steps(jobs.values()), self._programs.decode
        if speculates := self._speculates(jobs.values()):
            program = self._programs.speculate
            steps = min(steps, STEPS_IN_COMPANY) if len(jobs) > 1 else steps
        allowed_B = np.isin(np.arange(len(self._jobs)), list(jobs))
        began = time.perf_counter()
        self._slots, drawn = program(
            self._params, self._slots, allowed_B, np.int32(steps), masks_BW
        )
        for slot, job in jobs.items():
            job.steps_left -= min(steps, job.steps_left)
            if job.steps_left == 0 and not job.will_shift:
                self._jobs[slot] = None  # Its text ends in this dispatch; then the slot is free.
        return _Dispatch(jobs, drawn, steps, speculates, began)

    def _speculates(self, jobs: Collection[Job]) -> bool:
        """Return whether the next dispatch guesses tokens. It does not if many slots are all busy,
        because their step takes longer with each guessed token."""
        is_full = len(jobs) == self._sizes[-1] >= FULL_BATCH
        return not is_full and any(job.request.speculates for job in jobs)

    def _masks(self, jobs: dict[int, Job], size: int) -> np.ndarray | None:
        """Return the masks of the tokens that each slot may draw, uint32 [B, W] in the format of
        `inference.engine.slots.masked`; None if the programs have no masks.

        A job for which no token is allowed ends with an error.
        """
        if MASKS not in self._programs.options:
            return None
        words = -(-self._programs.vocabulary_size // 32)
        masks_BW = np.full((size, words), UNMASKED)
        for slot, job in jobs.items():
            if job.constraint is not None:
                try:
                    job.constraint.mask(masks_BW[slot])
                except RequestError as error:
                    job.fail(error)
                    self._release(job)
        return masks_BW

    def _steps(self, jobs: Iterable[Job]) -> int:
        """Return the number of steps of the next dispatch.

        If a job has a constraint, it is 1, because each mask depends on the previous token. While
        requests wait or are expected, the dispatch ends when the first slot may become free.
        """
        jobs = list(jobs)
        if any(job.constraint for job in jobs):
            return 1
        left = [job.steps_left for job in jobs]
        is_awaited = self._waiting or self._expects_more
        steps = min(min(left) if is_awaited else max(left), MOST_STEPS)
        has_free_slot = self._expects_more and len(jobs) < self._sizes[-1]
        is_heard = any(job.on_text is not None for job in jobs)
        is_urgent = self._waiting or has_free_slot or is_heard
        if is_urgent and self._seconds_per_step:
            steps = min(steps, max(int(self._dispatch_seconds / self._seconds_per_step), 1))
        return steps

    def _take(self, dispatch: _Dispatch) -> None:
        """Add the tokens of a dispatch to the texts of its jobs."""
        drawn_BSC = np.asarray(dispatch.drawn)
        now = time.perf_counter()
        seconds = now - max(dispatch.began, self._last_read)
        self._last_read = now
        self._seconds_per_step = seconds / dispatch.steps
        for slot, job in dispatch.jobs.items():
            if job.completion is not None:
                continue
            columns_SC = drawn_BSC[slot]
            if dispatch.speculates:  # It may have more than `steps` tokens.
                columns_SC, counts = columns_SC[:-2], columns_SC[-2:, 0]
                job.accepted += int(counts[0])
                job.rejected += int(counts[1])
            columns_SC = columns_SC[columns_SC[:, 0] != NOTHING]
            job.steps_left -= max(len(columns_SC) - dispatch.steps, 0)
            job.write(columns_SC, self.limit)
            if job.completion is not None:
                self._keep_text(job)
                self._release(job)
            elif job.read == self.limit:
                job.shift_context(self.limit)
                job.state = self._empty_row
            elif job.constraint is not None:
                self._write_forced(slot, job)

    def _write_forced(self, slot: int, job: Job) -> None:
        """Append the tokens that a constraint determines; the next `step` reads them."""
        job.write_forced(self.limit)
        if job.completion is not None:
            self._release(job)
        elif job.unread:
            job.state = self._programs.take_row(
                self._params, self._slots, np.int32(slot), self._rooms[-1]
            )

    def _keep_text(self, job: Job) -> None:
        """Keep the state after a text that has ended, for prompts that continue it."""
        ids = job.ids[: job.read]
        if (
            self._prefix_cache is None
            or job not in self._jobs
            or job.text.finish not in ("separator", "length")
            or not self._prefix_cache.wants(ids)
        ):
            return
        slot = np.int32(self._jobs.index(job))
        state = self._programs.take_row(self._params, self._slots, slot, self._rooms[-1])
        self._prefix_cache.add(ids, state)
