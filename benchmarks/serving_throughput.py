"""Measures which fraction of the engine's speed clients get over HTTP, for `serving.py`.

The engine alone and the server generate the same texts, in several streams at the same time. A
stream requests its texts one after the other. No text ends before it has its number of tokens.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.busy import calibrate
from benchmarks.decoding_sides import BAN, make_engine
from benchmarks.llama_folder import library_texts
from benchmarks.measuring import Side, Work, alternate, print_head, print_row
from benchmarks.serving_client import Ask, Told, percentiles_ms, run_streams
from benchmarks.serving_process import ServerProcess, running
from data.codecs.tokenizers import Tokenizer

SETTLE_SECONDS = 0.5
"""Seconds to wait before a turn, because threads of the previous side may still use a CPU each
while they wait for work."""

AIMS = {"http": 0.9, "http_streamed": 0.8}
"""The shares of the engine's speed that a server should reach."""

HEAD = (
    "side", "tokens/s", "/ `engine`", "/ `engine` in the same mode", "first, ms", "99th",
    "client's CPU", "server's CPU",
)  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """The requests of a run: for each stream, pairs of a prompt and its number of new tokens.

    end_id: the token that ends a text; it is never drawn.
    is_streamed: whether texts are streamed, token by token.
    """

    streams: tuple[tuple[tuple[str, int], ...], ...]
    end_id: int
    is_streamed: bool = False

    @property
    def tokens(self) -> int:
        return sum(new for stream in self.streams for _, new in stream)


@dataclass
class Wrote:
    """The result of a run.

    tokens: number of generated tokens.
    firsts: seconds until the first token of each text; empty if texts are not streamed.
    cpu_share: CPU time of a client, divided by the duration of the run; None for the engine.
    """

    tokens: int
    firsts: list[float]
    cpu_share: float | None = None


def texts_of(
    tokenizer: Tokenizer, count: int, each: int, *, prompts: Sequence[int], new: Sequence[int]
) -> Texts:
    """Return `each` texts for each of `count` streams, in a random order.

    prompts: the lengths of the prompts, which are parts of the standard library.
    new: the numbers of new tokens.
    """
    generator = np.random.default_rng(0)
    ids = tokenizer.encode("\n".join(library_texts(1_000_000)))
    ids = ids[ids != tokenizer.unknown_id] if tokenizer.unknown_id is not None else ids
    pairs = [(prompts[i % len(prompts)], new[i // len(prompts) % len(new)])
             for i in range(count * each)]  # fmt: skip
    texts = []
    for index in generator.permutation(len(pairs)):
        length, most = pairs[index]
        start = int(generator.integers(0, len(ids) - length))
        texts.append((tokenizer.decode(ids[start : start + length]), most))
    streams = tuple(tuple(texts[row * each : (row + 1) * each]) for row in range(count))
    return Texts(streams, tokenizer.end_id)


# ---- Sides, each in a process of its own.


def build_engine(workdir: Path, texts: Texts, slots: int, threads: int) -> Work:
    """Build the engine as a server has it. A run generates all texts."""
    os.environ |= {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    sizes = sorted({size for size in (1, 4) if size < slots} | {slots})
    engine = make_engine(workdir, sizes=sizes)
    from inference.requests import Request, Sampling

    settings = Sampling(temperature=0, logit_bias=((texts.end_id, BAN),))

    def write() -> Wrote:
        firsts: list[float] = []

        def submit(stream: list[tuple[str, int]]) -> Any:
            prompt, new = stream.pop(0)
            began = time.perf_counter()
            seen: list[int] = []

            def hear(piece: str, completion: Any) -> None:
                if not seen:
                    seen.append(1)
                    firsts.append(time.perf_counter() - began)

            request = Request(prompt, max_tokens=new, sampling=settings)
            return engine.submit(request, hear if texts.is_streamed else None)

        streams, written = [[*stream] for stream in texts.streams], 0
        jobs = [submit(stream) for stream in streams]
        while jobs:
            engine.step()
            for job in [job for job in jobs if job.is_done]:
                row = jobs.index(job)
                written += job.written
                if streams[row]:
                    jobs[row] = submit(streams[row])
                else:
                    del jobs[row], streams[row]
        return Wrote(written, firsts)

    return Work(lambda runs: [write() for _ in range(runs)], {}, lambda: None)


def build_client(port: int, model: str, texts: Texts) -> Work:
    """Build a client of the server at `port`. A run requests all texts."""
    fields: dict[str, Any] = {"model": model, "temperature": 0, "stream": texts.is_streamed}
    fields |= {"logit_bias": {str(texts.end_id): BAN}}
    if texts.is_streamed:
        fields["stream_options"] = {"include_usage": True}
    asks = [
        [
            Ask.json("text", "/v1/completions", fields | {"prompt": prompt, "max_tokens": new})
            for prompt, new in stream
        ]
        for stream in texts.streams
    ]

    def write() -> Wrote:
        told: Told = run_streams(port, asks)
        if wrong := [answer for answer in told.answers if answer.outcome != "answered"]:
            raise RuntimeError(f"{len(wrong)} requests failed: {wrong[0]}")
        firsts = [answer.first for answer in told.answers if texts.is_streamed]
        return Wrote(told.tokens, firsts, told.cpu_seconds / told.seconds)

    return Work(lambda runs: [write() for _ in range(runs)], {}, lambda: None)


# ---- The measurement.


def measure(
    workdir: Path, log: Path, texts: Texts, *, threads: int, slots: int, turns: int, seconds: float
) -> dict[str, Any]:
    """Measure the engine and the server alternately, print the results and return them.

    turns, seconds: the number of turns of each side, and their length.
    """
    fields = {"slots": slots, "prefix_cache_mb": 0, "model_name": "model"}
    streamed = replace(texts, is_streamed=True)
    how: dict[str, Any] = {"warm_up": 1, "turn_seconds": seconds}
    with running(workdir, log, threads=threads, fields=fields) as server:
        client = (server.port, server.model)
        sides = {
            "engine": Side(build_engine, workdir, texts, slots, threads, **how),
            "engine_streamed": Side(build_engine, workdir, streamed, slots, threads, **how),
            "http": Side(build_client, *client, texts, **how),
            "http_streamed": Side(build_client, *client, streamed, **how),
        }
        found = take_turns(sides, server, turns)
    if failed := {name: side.failed for name, side in sides.items() if side.failed}:
        raise SystemExit(f"serving.py: failed: {failed}")
    found["sides"] = {name: figures(side, texts) for name, side in sides.items()}
    for name, share in found.pop("server_cpu").items():
        found["sides"][name]["server_cpu_share"] = share
    speeds = {name: side["tokens_per_second"] for name, side in found["sides"].items()}
    for name, side in found["sides"].items():
        same = "engine_streamed" if name.endswith("_streamed") else "engine"
        side |= {
            "of_engine": speeds[name] / speeds["engine"],
            "of_mode": speeds[name] / speeds[same],
        }
    show(found["sides"])
    return found


def take_turns(sides: dict[str, Side], server: ServerProcess, turns: int) -> dict[str, Any]:
    """Run the sides alternately. Return how steady the machine was, and the server's CPU seconds
    per second of a client's turn."""
    pace, used = [], {name: [0.0, 0.0] for name in sides if name.startswith("http")}
    for name in alternate([*sides], turns):
        time.sleep(SETTLE_SECONDS)
        pace.append(calibrate())
        began, cpu = time.perf_counter(), server.cpu_seconds()
        sides[name].turn()
        if name in used:
            used[name][0] += server.cpu_seconds() - cpu
            used[name][1] += time.perf_counter() - began
    for side in sides.values():
        side.end()
    shares = {name: cpu / max(wall, 1e-9) for name, (cpu, wall) in used.items()}
    return {"calibration_spread": max(pace) / min(pace), "server_cpu": shares}


def figures(side: Side, texts: Texts) -> dict[str, Any]:
    """Return the results of a side. Raises `SystemExit` if it generated fewer tokens than
    requested."""
    runs: list[Wrote] = side.results
    if wrong := [run.tokens for run in runs if run.tokens != texts.tokens]:
        raise SystemExit(f"serving.py: {wrong[0]} tokens were written, not {texts.tokens}")
    found: dict[str, Any] = {"tokens_per_second": texts.tokens / side.step_seconds}
    found["turns_seconds"] = side.seconds
    if firsts := [first for run in runs for first in run.firsts]:
        found["first"] = percentiles_ms(firsts)
    shares = [run.cpu_share for run in runs if run.cpu_share is not None]
    if shares:
        found["client_cpu_share"] = float(np.mean(shares))
    return found


def show(sides: dict[str, dict[str, Any]]) -> None:
    """Print a table of the sides, and which of them miss `AIMS`."""
    print_head(HEAD)
    for name, side in sides.items():
        first = side.get("first", {})
        cells = [f"{side['of_engine']:.2f}", f"{side['of_mode']:.2f}"]
        cells += [f"{first[q]:.0f}" if first else "" for q in ("p50_ms", "p99_ms")]
        shares = (side.get(f"{whose}_cpu_share") for whose in ("client", "server"))
        cells += ["" if share is None else f"{share:.0%}" for share in shares]
        print_row([f"`{name}`", f"{side['tokens_per_second']:,.0f}", *cells])
    for name, aim in AIMS.items():
        share = sides[name]["of_engine"]
        if share < aim:
            print(f"`{name}` has {share:.2f} of the engine's speed: less than the {aim} aimed at")
