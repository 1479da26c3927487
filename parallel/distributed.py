"""Joins the processes of one run (`jax.distributed`), and synchronises them."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from configs.errors import UsageError
from parallel.exchange import limit_waiting
from parallel.rendezvous import Rendezvous

MEETING_SECONDS = 300.0
"""How long a process waits for the others, unless the caller says otherwise."""


class _Place(NamedTuple):
    """A process's place in a run, as the arguments of `jax.distributed.initialize` say it."""

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None


def initialize_distributed(
    *,
    seconds: float | None = MEETING_SECONDS,
    is_stopped: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda text: None,
) -> bool:
    """Join the processes of one run, once all are there. Do nothing if there is only one. Return
    False if one of them was told to stop before.

    JAX finds the processes itself under SLURM (more than one task), Kubernetes (an indexed job) and
    on Cloud TPU (more than one worker). Elsewhere set `JAX_COORDINATOR_ADDRESS` (host:port),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. Call this before any other use of JAX.

    seconds: how long this process waits for the others, now and in `agree`; None: for ever.
    is_stopped, notify: as in `Rendezvous`.

    Raises `Absent` if a process does not come in time.
    """
    place = _find_place()
    if place is None or place.num_processes == 1:
        return True
    address, count, index, _ = place
    if not Rendezvous(address, count, seconds, is_stopped, notify).meet(index):
        return False
    # JAX's handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**place._asdict())
    limit_waiting(seconds)
    _keep_output_clean()
    return True


def leave(status: int) -> int:
    """Return an exit status; or exit with it at once, if JAX has joined this process with others:
    at a usual end, JAX would wait for them."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(status)
    return status


def _find_place() -> _Place | None:
    """Return the place of this process; None if it is alone."""
    environment = os.environ
    if "JAX_NUM_PROCESSES" in environment:
        return _Place(
            environment["JAX_COORDINATOR_ADDRESS"],
            int(environment["JAX_NUM_PROCESSES"]),
            int(environment["JAX_PROCESS_ID"]),
            None,
        )
    if (
        int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    ):
        from jax._src.clusters import ClusterEnv  # JAX has no public name for it.

        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(MEETING_SECONDS)
        )
        if address is None or count is None or index is None:
            raise UsageError(
                "this looks like one of several processes, but JAX does not find the others: set "
                "JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            )
        return _Place(address, count, index, devices)
    return None


def _keep_output_clean() -> None:
    """Send to standard error what C++ libraries write to standard output. Python's own output is
    not redirected.

    Gloo, which connects processes on CPUs, logs its connections on standard output.
    """
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def is_main_process() -> bool:
    """Return whether this is the first process of the run, which writes the workdir."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has reached the barrier `name`."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Return whether `flag` is true in any process. All processes must call it.

    Used to stop all hosts after a signal to one of them.
    """
    if _is_alone():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


@functools.cache
def _is_alone() -> bool:
    """Return whether this is the only process. Cached, since each step calls `any_process`."""
    return jax.process_count() == 1
