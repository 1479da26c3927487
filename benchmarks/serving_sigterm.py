"""Stops a server under load repeatedly, for `serving.py`; checks the outcome of every request."""

import random
import signal
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_head, print_row
from benchmarks.serving_client import Answer, Ask, Told, run_clients
from benchmarks.serving_process import ServerProcess

DRAIN_SECONDS = (30.0, 0.2)
"""Seconds that the server has to finish accepted requests. The rounds alternate between the two
values: enough for all requests, and too few."""

LONGEST_ROUND = 300.0


def measure(
    workdir: Path, log: Path, *, threads: int, slots: int, rounds: int, most_tokens: int
) -> dict[str, Any]:
    """Stop a server `rounds` times while clients send requests. Print and return the outcomes of
    the requests, and `failures`, a list of messages.

    most_tokens: the largest number of tokens that a request generates.
    """
    print_head(("round", "time to finish, s", "answered", "told to try again", "not accepted",
                "lost", "exit status", "seconds to exit"))  # fmt: skip
    found: list[dict[str, Any]] = []
    generator = random.Random(0)
    for number in range(rounds):
        drain = DRAIN_SECONDS[number % len(DRAIN_SECONDS)]
        fields = {"slots": slots, "drain_seconds": drain, "model_name": "model"}
        server = ServerProcess(workdir, log, threads=threads, fields=fields)
        try:
            its = one_round(server, slots, most_tokens, generator.uniform(0.5, 3.0))
        finally:
            if server.process.poll() is None:
                server.kill()
        found.append({"drain_seconds": drain} | its)
        cells = (its[name] for name in ("answered", "retry", "not_accepted", "lost", "status"))
        print_row([str(number + 1), f"{drain:g}", *map(str, cells), f"{its['seconds']:.1f}"])
    failures = [text for its in found for text in its.pop("failures")]
    return {"rounds": found, "failures": failures}


def one_round(
    server: ServerProcess, slots: int, most_tokens: int, seconds: float
) -> dict[str, Any]:
    """Send requests, stop the server after `seconds`, and return the outcomes of the requests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        load = pool.submit(send, server.port, server.model, 2 * slots, most_tokens)
        while not server.gauges()["triform_num_requests_running"] and not load.done():
            time.sleep(0.05)
        time.sleep(seconds)
        stopped_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        status = server.wait()
        took = time.monotonic() - stopped_at
        told = load.result(LONGEST_ROUND)
    return outcomes(told, stopped_at) | {"status": status, "seconds": took}


def send(port: int, model: str, streams: int, most_tokens: int) -> Told:
    """Request texts, streamed and not streamed, each over a new connection, until the server has
    stopped listening."""
    fields = {"model": model, "prompt": "a", "max_tokens": most_tokens}
    asks = [
        Ask.json(f"text{', streamed' * is_streamed}", "/v1/completions",
                 fields | {"stream": is_streamed})
        for is_streamed in (False, True)
    ]  # fmt: skip
    clients = [("", streams)]
    (told,) = run_clients(port, asks, clients, seconds=LONGEST_ROUND, is_kept_open=False)
    return told


def outcomes(told: Told, stopped_at: float) -> dict[str, Any]:
    """Count the requests by outcome.

    - `answered`;
    - `retry`: the client was asked to try again;
    - `not_accepted`: sent after the signal, and closed without a byte of an answer;
    - `lost`: anything else. These are also listed in `failures`.
    """
    counts = Counter(outcome_of(answer, stopped_at) for answer in told.answers)
    lost = [answer for answer in told.answers if outcome_of(answer, stopped_at) == "lost"]
    found: dict[str, Any] = {
        name: counts[name] for name in ("answered", "retry", "not_accepted", "lost")
    }
    return found | {"failures": [str(answer) for answer in lost]}


def outcome_of(answer: Answer, stopped_at: float) -> str:
    """Return the outcome of a request to a server that was stopped at `stopped_at`, a time of
    `time.monotonic`."""
    outcome = {"refused": "retry"}.get(answer.outcome, answer.outcome)
    if outcome != "failed":
        return outcome
    is_late = answer.sent_at >= stopped_at and not answer.status
    return "not_accepted" if is_late else "lost"
