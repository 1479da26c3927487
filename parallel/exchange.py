"""Small values that the processes of a run exchange through the coordinator, not their devices.

So they can also be exchanged by a thread beside the one that runs the train step.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import distributed  # The coordinator's key-value store has no public name.

LONGEST_WAIT_SECONDS = 1800
"""Longer than Orbax waits for the slowest process of a save, and than a host takes for its share of
a checkpoint's bytes. A process that has died is noticed much earlier, by JAX."""

_turns: dict[str, Any] = defaultdict(itertools.count)


def agree(name: str, value: Any, decide: Callable[[list[Any]], Any]) -> Any:
    """Return in every process what `decide` makes, in the first one, of the values of all.

    All processes must call this function, and those calls with the same `name` in the same order.
    Values and results are JSON. decide: called in the first process alone, with the values in the
    order of the processes.

    Raises TimeoutError, which names the first process that did not come, after
    `LONGEST_WAIT_SECONDS`. If `decide` raises an error, that error in the first process, and
    RuntimeError in the others.
    """
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return decide([value])
    client: Any = distributed.global_state.client
    turn = next(_turns[name])
    place = f"triform/{name}/{turn}"
    if index:
        client.key_value_set(f"{place}/{index}", json.dumps(value))
        answer = json.loads(_wait(client, f"{place}/answer", 0, name, 2 * LONGEST_WAIT_SECONDS))
        if "error" in answer:
            raise RuntimeError(f"process 0 of the run: {answer['error']}")
        return answer["result"]
    answer = {"error": f"it was cut off ({name})"}
    try:
        values = [value]
        for other in range(1, count):
            values.append(
                json.loads(_wait(client, f"{place}/{other}", other, name, LONGEST_WAIT_SECONDS))
            )
            client.key_value_delete(f"{place}/{other}")
        answer = {"result": decide(values)}
    except Exception as error:
        answer = {"error": str(error)}
        raise
    finally:
        client.key_value_set(f"{place}/answer", json.dumps(answer))
        if turn:  # Everyone has read the last answer before giving this value.
            client.key_value_delete(f"triform/{name}/{turn - 1}/answer")
    return answer["result"]


def first(values: Sequence[Any]) -> Any:
    """Return the value of the first process: a `decide` of `agree`."""
    return values[0]


def _wait(client: Any, key: str, process: int, name: str, seconds: int) -> str:
    """Return the value of a key once `process` has set it."""
    try:
        return client.blocking_key_value_get(key, 1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise TimeoutError(
            f"process {process} of the run did not answer within {seconds} s ({name})"
        ) from None
