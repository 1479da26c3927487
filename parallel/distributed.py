"""Joins the processes of one run (`jax.distributed`), and synchronises them."""

import functools
import os
import sys

import jax
import numpy as np


def initialize_distributed() -> None:
    """Join the processes of one run; do nothing if there is only one.

    JAX finds the processes itself under SLURM (more than one task), Kubernetes (an indexed job) and
    on Cloud TPU (more than one worker). Elsewhere set `JAX_COORDINATOR_ADDRESS` (host:port),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. Call this before any other use of JAX.
    """
    environment = os.environ
    if "JAX_NUM_PROCESSES" in environment:
        jax.distributed.initialize(
            coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
        _keep_output_clean()
    elif (
        int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()
        _keep_output_clean()


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
