"""Start-up of several processes as one machine (`jax.distributed`)."""

import functools
import os
import sys

import jax
import numpy as np


def initialize_distributed() -> None:
    """Joins the processes of one run; does nothing where there is only one.

    Found by itself under SLURM (more than one task), Kubernetes (an indexed job) and on Cloud TPU
    (more than one worker). Elsewhere the environment says it: `JAX_COORDINATOR_ADDRESS`
    (host:port), `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`. To be called before any other use of JAX.
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
    """Sends what libraries below Python write on standard output to standard error: Gloo, which
    joins processes of CPUs, tells there of its connections, and standard output is for results."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def is_main_process() -> bool:
    """Whether this is the process that writes the workdir: the first, or the only one."""
    return jax.process_index() == 0


def barrier(point: str) -> None:
    """Returns when every process has come to `point`."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(point)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process: how a signal that reached one host stops them all."""
    if _is_alone():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


@functools.cache
def _is_alone() -> bool:
    """Whether there is no other process: asked once, for any_process is called in every step."""
    return jax.process_count() == 1
