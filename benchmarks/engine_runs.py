"""Measures Triform's engine alone: its warm-up, the programs compiled after it, and its memory over
many requests. Each function runs in its own process."""

import itertools
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding_sides import make_engine
from benchmarks.llama_folder import library_texts
from inference.requests import Request, Sampling

STATM = Path("/proc/self/statm")
WAITING = 24
"""Number of requests in the engine at the same time while memory is measured."""

ARRIVALS = (1, 3, 60)
"""Numbers of requests that arrive at the same time after the warm-up."""

PREFIX_BYTES = 32 << 20
SAMPLES = 200


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
