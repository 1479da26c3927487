"""Measures Triform's engine alone: its warm-up, the programs compiled after it, the cost of masks,
and its memory over many requests. Each function runs in its own process."""

import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding_sides import make_engine
from benchmarks.llama_folder import library_texts
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import Constraint
from inference.requests import Request, Sampling

STATM = Path("/proc/self/statm")
WAITING = 24
"""Number of requests in the engine at the same time while memory is measured."""

ARRIVALS = (1, 3, 60)
"""Numbers of requests that arrive at the same time after the warm-up."""

PREFIX_BYTES = 32 << 20
SAMPLES = 200


MASKED_TOKENS = 128
"""Largest number of tokens of a constrained text."""

SCHEMA = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 60},
            "kind": {"enum": ["module", "class", "function"]},
            "line": {"type": "integer", "minimum": 0, "maximum": 100_000},
            "tags": {"type": "array", "maxItems": 8, "items": {"type": "string", "maxLength": 20}},
        },
        "required": ["name", "kind", "line", "tags"],
        "additionalProperties": False,
    },
}
"""A schema for lists that are too long to be complete after `MASKED_TOKENS` tokens."""

MIXTURES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"top_k": 20},
    {"top_p": 0.9, "min_p": 0.01},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"frequency_penalty": 0.5, "logit_bias": ((5, -100.0),)},
)


@dataclass(frozen=True)
class WarmUp:
    """The duration of an engine's warm-up, and the number of programs compiled after it."""

    restore_seconds: float
    seconds: float
    programs: int
    requests: int
    compiled_after: int


@dataclass(frozen=True)
class Soak:
    """The resident memory, in MiB, of an engine's process while it answers many requests.

    range_mib: largest difference of two samples in the second half.
    """

    requests: int
    requests_per_second: float
    middle_mib: float
    end_mib: float
    range_mib: float
    samples_mib: list[float]


@dataclass(frozen=True)
class Masks:
    """The cost of a JSON schema for texts that are generated at the same time.

    vocabulary: the number of tokens of the vocabulary.
    texts: the number of texts.
    mask_ms: the time per step that the constraints of all texts take on the host.
    step_ms: the time per step that everything else takes.
    share: mask_ms / step_ms.
    speed: tokens per second, relative to the same requests without a constraint, which take several
        steps per dispatch.
    """

    vocabulary: int
    texts: int
    mask_ms: float
    step_ms: float
    share: float
    speed: float


class Timed:
    """Wraps the state of a constraint: counts its masks, and the seconds that its methods take."""

    def __init__(self, constraint: Any):
        self._constraint, self.seconds, self.steps = constraint, 0.0, 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._constraint, name)
        return self._timed(value) if callable(value) else value

    def mask(self, out: np.ndarray) -> None:
        """Write the mask of the next step."""
        self.steps += 1
        self._timed(self._constraint.mask)(out)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


class Compilations:
    """Counts the programs that JAX compiles, or loads from its cache, from now on."""

    def __init__(self) -> None:
        import jax

        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **others: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def random_requests(count: int, *, mixed: bool = False) -> Iterator[Request]:
    """Yield requests with short prompts from the standard library; if `mixed`, with settings of
    every kind."""
    generator, text = random.Random(0), "\n".join(library_texts(1_000_000))
    for number in range(count):
        begin, length = generator.randrange(len(text) - 80), generator.randrange(1, 80)
        settings = MIXTURES[number % len(MIXTURES)] if mixed else {}
        yield Request(
            text[begin : begin + length],
            max_tokens=generator.randrange(1, 17),
            sampling=Sampling(seed=number, **settings),
            logprobs=mixed and number % 4 == 1,
            prompt_logprobs=mixed and number % 8 == 3,
        )


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def warm_up(root: Path, cache: Path, threads: int) -> WarmUp:
    """Measure `Engine.warm_up` with the compilation cache `cache`; then count what compiles while
    requests of every kind are answered."""
    os.environ["NPROC"] = str(threads)
    began = time.perf_counter()
    engine = make_engine(root / "workdir", cache=cache, prefix_bytes=PREFIX_BYTES)
    restored = time.perf_counter()
    compilations = Compilations()
    engine.warm_up()
    seconds, programs = time.perf_counter() - restored, compilations.count
    requests = random_requests(sum(ARRIVALS), mixed=True)
    for size in ARRIVALS:
        for request in itertools.islice(requests, size):
            engine.submit(request)
        engine.run()
    compiled = compilations.count - programs
    return WarmUp(restored - began, seconds, programs, sum(ARRIVALS), compiled)


def soak(root: Path, threads: int, count: int) -> Soak:
    """Answer `count` requests with short random prompts; measure the memory meanwhile."""
    os.environ["NPROC"] = str(threads)
    engine = make_engine(root / "workdir", prefix_bytes=PREFIX_BYTES)
    engine.warm_up()
    jobs: list[Any] = []
    samples: list[float] = []
    began, every = time.perf_counter(), max(count // SAMPLES, 1)
    for number, request in enumerate(random_requests(count), 1):
        jobs.append(engine.submit(request))
        while len(jobs) >= WAITING:
            engine.step()
            jobs = [job for job in jobs if job.completion is None]
        if number % every == 0:
            samples.append(resident_mib())
    engine.run()
    samples.append(resident_mib())
    late = samples[len(samples) // 2 :]
    seconds = time.perf_counter() - began
    return Soak(count, count / seconds, late[0], late[-1], float(np.ptp(late)), samples)


def masks(root: Path, threads: int, texts: int, turns: int) -> Masks:
    """Generate `texts` texts at the same time, alternately with and without a schema. Return the
    medians of the turns."""
    os.environ["NPROC"] = str(threads)
    engine = make_engine(root / "workdir", sizes=(texts,))
    engine.warm_up()
    schema = Constraint("json_schema", json.dumps(SCHEMA))
    found: list[tuple[float, float, float]] = []
    for turn in range(turns + 1):
        free, constrained = _write(engine, texts, None), _write(engine, texts, schema)
        timed = [job.constraint for job in constrained.jobs]
        mask, steps = sum(one.seconds for one in timed), max(one.steps for one in timed)
        if turn > 0:  # The first turn compiles the schema.
            rest = constrained.seconds - mask
            found.append((mask / steps, rest / steps, constrained.speed / free.speed))
    mask, rest, speed = (float(np.median(column)) for column in zip(*found, strict=True))
    vocabulary = Tokenizer.load(root / "folder/tokenizer.json").vocabulary_size
    return Masks(vocabulary, texts, 1e3 * mask, 1e3 * rest, mask / rest, speed)


@dataclass(frozen=True)
class _Run:
    jobs: list[Any]
    seconds: float

    @property
    def speed(self) -> float:
        """Return the tokens per second."""
        return sum(job.completion.tokens for job in self.jobs) / self.seconds


def _write(engine: Any, texts: int, constraint: Constraint | None) -> _Run:
    prompts = itertools.islice(random_requests(texts), texts)
    jobs = []
    for request in prompts:
        wanted = replace(request, max_tokens=MASKED_TOKENS, constraint=constraint)
        job = engine.prepare(wanted)
        if constraint is not None:
            job.constraint = Timed(job.constraint)
        jobs.append(job)
    began = time.perf_counter()
    for job in jobs:
        engine.add(job)
    engine.run()
    return _Run(jobs, time.perf_counter() - began)
