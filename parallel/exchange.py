"""Small values that the processes of a run exchange through the coordinator, not their devices.

So they can also be exchanged by a thread beside the one that runs the train step.
"""

import itertools
import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax

from configs.errors import UsageError
from parallel import coordinator
from parallel.rendezvous import Absent, name_processes

Callback = Callable[..., None]

_POLL_SECONDS = 1.0

_SIGN_SECONDS = 5.0
"""Time between two signs of a process that works, at most."""

_WORKING_SHARE = 0.1
"""A process that uses this share of one core, or more, works."""

_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (Absent, UsageError, RuntimeError)
}

_turns: dict[str, Any] = defaultdict(itertools.count)
_limit_seconds: float | None = None


def limit_waiting(seconds: float | None) -> None:
    """Set how long `agree` waits for another process; None: for ever."""
    global _limit_seconds
    _limit_seconds = seconds


def agree(name: str, value: Any, decide: Callable[[list[Any]], Any]) -> Any:
    """Return in every process what `decide` makes, in the first one, of the values of all.

    All processes must call this function, and those calls with the same `name` in the same order.
    Values and results are JSON. decide: called in the first process alone, with the values in the
    order of the processes.

    Raises in all processes that came:

    - `Absent`, which names the first process that did not come within the time of `limit_waiting`.
      As long as any process gives signs of its work (`working`), the time begins anew.
    - `UsageError` or RuntimeError, if another process has failed at its work.

    If `decide` raises an error: this error in the first process, RuntimeError in the others.
    """
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return decide([value])
    turn = next(_turns[name])
    place = f"{name}/{turn}"
    if index:
        coordinator.put(f"{place}/{index}", json.dumps(value))
        answer = json.loads(_wait_for(0, f"{place}/answer", name))
        if "error" in answer:
            raise _ERRORS[answer["kind"]](answer["error"])
        return answer["result"]
    answer = {"kind": "RuntimeError", "error": f"process 0 of {count} was cut off ({name})"}
    try:
        values = [value]
        for other in range(1, count):
            values.append(json.loads(_wait_for(other, f"{place}/{other}", name)))
            coordinator.delete(f"{place}/{other}")
    except (UsageError, RuntimeError) as error:
        kind = type(error).__name__
        answer = {"kind": kind if kind in _ERRORS else "RuntimeError", "error": str(error)}
        raise
    else:
        try:
            answer = {"result": decide(values)}
        except Exception as error:
            answer["error"] = f"process 0 of {count}: {error}"
            raise
    finally:
        coordinator.put(f"{place}/answer", json.dumps(answer))
        if "error" in answer:  # This process may end next, and the store with it.
            time.sleep(_POLL_SECONDS)
        if turn:  # Everyone has read the last answer before giving this value.
            coordinator.delete(f"{name}/{turn - 1}/answer")
    return answer["result"]


def first(values: Sequence[Any]) -> Any:
    """Return the value of the first process: a `decide` of `agree`."""
    return values[0]


@contextmanager
def working() -> Iterator[Callable[[Callback], Callback]]:
    """Let the other processes wait in `agree` while this one works, however long it takes.

    Yields a function that wraps a callback, such as one that is told of progress: each call of it
    is a sign of work. Another sign is the time that the process spends on its cores. So a process
    that stands still, or waits for a disk that does not answer, gives none.

    An error that leaves the context makes the others fail in `agree`, too, with its message.
    """
    if jax.process_count() == 1:
        yield lambda callback: callback
        return
    calls, left = 0, threading.Event()
    period = min(_SIGN_SECONDS, (_limit_seconds or math.inf) / 4)

    def noticed(callback: Callback) -> Callback:
        def call(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            callback(*arguments)

        return call

    def give_signs() -> None:
        calls_before, seconds_before = calls, time.process_time()
        for number in itertools.count():
            if left.wait(period):
                return
            seconds = time.process_time()
            if calls != calls_before or seconds - seconds_before >= _WORKING_SHARE * period:
                _give_sign(number=number)
            calls_before, seconds_before = calls, seconds

    thread = threading.Thread(target=give_signs, name="signs", daemon=True)
    thread.start()
    failed: dict[str, str] = {}
    try:
        yield noticed
    except Exception as error:
        kind = "UsageError" if isinstance(error, UsageError) else "RuntimeError"
        failed = {"kind": kind, "error": str(error)}
        raise
    finally:
        left.set()
        thread.join()
        if failed:
            _give_sign(**failed)


def _give_sign(**sign: Any) -> None:
    with suppress(jax.errors.JaxRuntimeError):
        coordinator.put(f"signs/{jax.process_index()}", json.dumps(sign), replace=True)


def _wait_for(process: int, key: str, name: str) -> str:
    """Return the text of a key once `process` has stored it. Raises the errors of `agree`."""
    count, seconds = jax.process_count(), _limit_seconds
    # The first process says who is missing, so that the others wait longer for it.
    limit = math.inf if seconds is None else seconds if process else 2 * seconds
    deadline, signs = time.monotonic() + limit, None
    while True:
        with suppress(TimeoutError):
            return coordinator.get(key, min(_POLL_SECONDS, limit / 4))
        found = coordinator.entries("signs")
        for number, sign in sorted(found.items()):
            if "error" in (failed := json.loads(sign)):
                raise _ERRORS[failed["kind"]](f"process {number} of {count}: {failed['error']}")
        if signs is not None and found != signs:
            deadline = time.monotonic() + limit
        signs = found
        if time.monotonic() > deadline:
            who = name_processes({process})
            raise Absent(f"{who} of {count} did not answer within {limit:g} s ({name})")
