"""Loads a server with mixed traffic for a long time, and with an unfair client, for `serving.py`.

The soak sends twice as many requests as the server can answer: for texts (streamed and not
streamed), conversations, embeddings and labels, as far as the model supports them. Some clients
leave in mid-stream, and some requests are invalid. No request may fail, except that the server may
refuse it with 429 and Retry-After; memory may not grow, and no slot may be lost.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

from benchmarks.measuring import in_own_process, print_head, print_row
from benchmarks.serving_client import (
    Ask,
    Told,
    percentiles_ms,
    run_arrivals,
    run_clients,
    run_streams,
)
from benchmarks.serving_process import ServerProcess, running

OVERLOAD = 2.0
"""The rate of requests relative to the rate that the server can answer."""

LARGEST_GROWTH = 0.05
"""Largest growth of the mean memory from the middle third of a soak to the last third, as a
fraction."""

GREED, LARGEST_WAIT = 10, 2.2
"""One client sends `GREED` times as much as the other. The other may wait at most `LARGEST_WAIT`
times as long as when it is alone."""

SAMPLE_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""Seconds after the last request within which a server must be idle."""

WORDS = ("time", "0 times 0", "import", "to be", "The ", "def f(", "a", "\n")
SEVERAL_ASKS = 8
"""Number of different requests of each kind."""


# ---- Requests.


def kinds_of(server: ServerProcess, most_tokens: int) -> dict[str, list[Ask]]:
    """Return requests of each kind that the model can answer."""
    generator = random.Random(0)
    found: dict[str, list[Ask]] = {}
    for number in range(SEVERAL_ASKS):
        new = generator.randint(1, most_tokens)
        for kind, path, content in _contents(" ".join(generator.choices(WORDS, k=3)), new):
            ask = Ask.json(kind, path, {"model": server.model} | content, leaves=kind == "leaves")
            if number == 0 and not _is_answered(server, ask):
                continue
            if number == 0 or kind in found:
                found.setdefault(kind, []).append(ask)
    if not found:
        raise SystemExit("serving.py: this model answers none of the requests of the soak")
    return found


def _contents(text: str, new: int) -> list[tuple[str, str, dict[str, Any]]]:
    completion = {"prompt": text, "max_tokens": new}
    conversation = {"messages": [{"role": "user", "content": text}], "max_tokens": new}
    streams = {"stream": True, "stream_options": {"include_usage": True}}
    return [
        ("text", "/v1/completions", completion),
        ("text, streamed", "/v1/completions", completion | streams),
        ("scores", "/v1/completions", completion | {"logprobs": 2, "echo": True}),
        ("chat", "/v1/chat/completions", conversation),
        ("chat, streamed", "/v1/chat/completions", conversation | streams),
        ("embeddings", "/v1/embeddings", {"input": [text, text + "."]}),
        ("labels", "/v1/classify", {"input": text}),
        ("translation", "/v1/translate", {"input": text}),
        ("leaves", "/v1/completions", completion | streams | {"max_tokens": 4 * new}),
    ]


def _is_answered(server: ServerProcess, ask: Ask) -> bool:
    told = in_own_process(run_streams, server.port, [[ask]])
    return told.answers[0].status == 200


def bad_asks(model: str) -> list[Ask]:
    """Return requests that must be refused, each with the status that it must get. The last one is
    wrong for a model of any kind."""
    fields = {"model": model, "prompt": "a", "max_tokens": 4}
    path = "/v1/completions"
    contents = [
        (400, {"model": model, "prompt": [[]]}),
        (400, fields | {"temperature": -1}),
        (400, fields | {"n": 10**9}),
        (400, fields | {"max_tokens": 1 << 30}),
        (400, fields | {"prompt": [1 << 30]}),
        (400, fields | {"unknown": 1}),
        (404, fields | {"model": "another"}),
    ]
    found = [Ask.json("bad", path, content, expected=status) for status, content in contents]
    return [
        *found,
        Ask("bad", path, b'{"model": NaN}', expected=400),
        Ask("bad", path, b"[" * 5000, expected=400),
        Ask("bad", path, b"{}", content_type="text/plain", expected=415),
        Ask("bad", path, b"", method="DELETE", expected=405),
        Ask.json("bad", "/v1/nothing", {}, expected=404),
    ]


# ---- The soak.


def soak(
    workdir: Path, log: Path, *, threads: int, slots: int, seconds: float, most_tokens: int
) -> dict[str, Any]:
    """Load a server for `seconds`. Print and return the outcomes of the requests, samples of the
    memory, and `failures`, a list of messages.

    most_tokens: the largest number of tokens that a request generates.
    """
    fields = {"slots": slots, "max_waiting_requests": 4 * slots, "model_name": "model"}
    with running(workdir, log, threads=threads, fields=fields) as server:
        kinds = kinds_of(server, most_tokens)
        answered = [ask for of in kinds.values() for ask in of if not ask.leaves]
        calm = max(min(seconds / 10, 20.0), 2.0)
        (told,) = in_own_process(_clients, server.port, answered, [("", 2 * slots)], calm)
        capacity = told.outcomes()["answered"] / told.seconds
        asks = [ask for of in kinds.values() for ask in of]
        wrong = bad_asks(server.model)[0 if "text" in kinds else -1 :]
        asks += wrong * max(len(asks) // (8 * len(wrong)), 1)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            running_client = pool.submit(_arrivals, server.port, asks, OVERLOAD * capacity, seconds)
            memory = sampled(running_client, server.resident_mib)
            told = running_client.result()
        failures = failed(told) + leftovers(server, answered, slots)
        status = server.stop()
    if status:
        failures.append(f"the exit status is {status}")
    failures += [f"the log has a fault: {line}"[:300] for line in server.events()
                 if line["event"] == "fault"][:5]  # fmt: skip
    middle, last = (fmean(memory[len(memory) * n // 3 : len(memory) * (n + 1) // 3] or memory)
                    for n in (1, 2))  # fmt: skip
    if last > middle * (1 + LARGEST_GROWTH):
        failures.append(f"memory grew from {middle:.0f} to {last:.0f} MiB")
    found = {
        "seconds": told.seconds,
        "capacity_per_second": capacity,
        "sent_per_second": len(told.answers) / told.seconds,
        "client_cpu_share": told.cpu_seconds / told.seconds,
        "kinds": by_kind(told),
        "memory_mib": {"middle_third": middle, "last_third": last, "samples": memory[::30]},
        "failures": failures,
    }
    show(found)
    return found


def _clients(
    port: int,
    asks: Sequence[Ask],
    clients: Any,
    seconds: float,
    arrivals: Any = MappingProxyType({}),
) -> list[Told]:
    return run_clients(port, asks, clients, seconds=seconds, arrivals=arrivals)


def _arrivals(port: int, asks: Sequence[Ask], per_second: float, seconds: float) -> Told:
    return run_arrivals(port, asks, per_second=per_second, seconds=seconds)


def sampled(running: Future, value: Callable[[], float]) -> list[float]:
    """Call `value` every `SAMPLE_SECONDS` until `running` is done; return its values."""
    samples = [value()]
    while not running.done():
        time.sleep(SAMPLE_SECONDS)
        samples.append(value())
    return samples


def failed(told: Told) -> list[str]:
    """Return a message for each kind of failure, up to ten: requests that were neither answered nor
    refused as expected."""
    wrong = Counter(str(a) for a in told.answers if a.outcome in ("failed", "retry"))
    return [f"{count} × {text}" for text, count in wrong.most_common(10)]


def leftovers(server: ServerProcess, asks: Sequence[Ask], slots: int) -> list[str]:
    """Return messages if a server did not release everything after its last request: if it still
    counts requests, or if some slots no longer generate texts."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    if not _becomes(server, lambda its: not any(its.get(f"triform_{name}") for name in names)):
        return [f"after the last request, not all is free: {server.gauges()}"]
    told = in_own_process(run_streams, server.port, [[ask] for ask in asks[:1]] * (2 * slots))
    return failed(told)


def _becomes(server: ServerProcess, is_so: Callable[[dict[str, float]], bool]) -> bool:
    deadline = time.monotonic() + IDLE_SECONDS
    while not (so := is_so(server.gauges())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return so


def by_kind(told: Told) -> dict[str, dict[str, Any]]:
    """Return the outcomes of each kind of request, and the latencies of those answered."""
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({answer.ask.kind for answer in told.answers}):
        answers = [answer for answer in told.answers if answer.ask.kind == kind]
        times = [one.seconds for one in answers if one.outcome in ("answered", "left")]
        found[kind] = {"sent": len(answers), **Counter(one.outcome for one in answers)}
        found[kind] |= percentiles_ms(times)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the outcomes of each kind of request, and the memory."""
    print_head(("request", "sent", "answered", "refused (429)", "other", "50th, ms", "99th"))
    for kind, its in found["kinds"].items():
        good = its.get("answered", 0) + its.get("left", 0)
        refused = its.get("refused", 0)
        cells = [its["sent"], good, refused, its["sent"] - good - refused]
        times = [f"{its['p50_ms']:,.0f}", f"{its['p99_ms']:,.0f}"]
        print_row([kind, *(f"{cell:,}" for cell in cells), *times])
    memory = found["memory_mib"]
    print(
        f"{found['sent_per_second']:.1f} requests/s for {found['seconds']:.0f} s, of which the "
        f"server can answer {found['capacity_per_second']:.1f}; resident memory "
        f"{memory['middle_third']:.0f} MiB in the middle third, {memory['last_third']:.0f} MiB in "
        f"the last; client's CPU {found['client_cpu_share']:.0%}"
    )


# ---- Fairness.


def fairness(
    workdir: Path, log: Path, *, threads: int, slots: int, seconds: float, most_tokens: int
) -> dict[str, Any]:
    """Measure how long a client waits when it is alone, and when another client sends `GREED` times
    as much.

    The client keeps twice as many requests open as there are slots, so that alone it uses all of
    them. The other one sends `GREED` times as many requests per second as the client did alone,
    whether they are answered or refused.
    """
    fields = {"slots": slots, "max_waiting_requests": 8 * slots, "model_name": "model"}
    modest, greedy = ("modest", 2 * slots), "greedy"
    tokens = (modest[0], greedy)
    with running(workdir, log, threads=threads, fields=fields, tokens=tokens) as server:
        content = {"model": server.model, "prompt": "a", "max_tokens": most_tokens}
        asks = [Ask.json("text", "/v1/completions", content)]
        (alone,) = in_own_process(_clients, server.port, asks, [modest], seconds)
        rate = GREED * len(alone.answers) / alone.seconds
        beside, other = in_own_process(
            _clients, server.port, asks, [modest], seconds, {greedy: rate}
        )
    times = [
        [one.seconds for one in told.answers if one.outcome == "answered"]
        for told in (alone, beside, other)
    ]
    if not all(times):
        raise SystemExit("serving.py: a client got no answer at all: give it more --seconds")
    ratio = median(times[1]) / median(times[0])
    failures = failed(alone) + failed(beside) + failed(other)
    if ratio > LARGEST_WAIT:
        failures.append(f"the modest client waits {ratio:.2f} times as long as alone")
    names = ("alone", "beside the other", f"the other, which sends {GREED} times as much")
    print_head(("client", "answers", "refused (429)", "50th, ms", "99th"))
    found: dict[str, Any] = {"ratio": ratio, "failures": failures}
    for name, told, its in zip(names, (alone, beside, other), times, strict=True):
        figures = {"answered": len(its), "refused": told.outcomes()["refused"]}
        figures |= percentiles_ms(its)
        found[name] = figures
        cells = [f"{figures['p50_ms']:,.0f}", f"{figures['p99_ms']:,.0f}"]
        print_row([name, f"{len(its):,}", f"{figures['refused']:,}", *cells])
    print(f"beside the other, the client waits {ratio:.2f} times as long as alone")
    return found
