"""Checks that no other program keeps the machine busy, as measured times would then mean little."""

import os
import time
from pathlib import Path

import numpy as np

from configs.errors import UsageError

STAT = Path("/proc/stat")
LARGEST_SHARE = 0.1
"""Share of the CPUs' time that other programs may use before a measurement."""

LARGEST_SPREAD = 1.25
"""A machine was steady if its slowest calibration took at most this many times as long as its
fastest."""


def busy_share(seconds: float = 2.0) -> float | None:
    """Sleep for some seconds, and return the share of the CPUs' time that was in use meanwhile.

    Time that the host gave to other virtual machines counts as used. Returns None on systems
    without `STAT`.
    """
    if not STAT.exists():
        return None
    idle, total = _cpu_times()
    time.sleep(seconds)
    new_idle, new_total = _cpu_times()
    return 1 - (new_idle - idle) / max(new_total - total, 1)


def _cpu_times() -> tuple[int, int]:
    """Return the CPUs' clock ticks since the system started: those that were idle, and all."""
    ticks = [int(field) for field in STAT.read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def load_share() -> float:
    """Return the load average of the last minute, divided by the number of CPUs."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def check_idle(*, force: bool) -> dict[str, float | bool | None]:
    """Return how busy the machine is. Raises `UsageError` if it is too busy, unless `force`."""
    share, load = busy_share(), load_share()
    measured = share if share is not None else load
    if not force and (measured > LARGEST_SHARE or load > 0.5):
        raise UsageError(
            f"the machine is busy: {measured:.0%} of its CPU time is in use, and its load average "
            f"is {load:.2f} per CPU; wait until it is idle, or measure nevertheless with --force"
        )
    return {"busy_share": share, "load_per_cpu": load, "forced": force}


def calibrate() -> float:
    """Return how many milliseconds a fixed computation takes: about the same at each call on a
    steady machine."""
    x = np.ones((256, 256), np.float32)
    x @ x
    began = time.perf_counter()
    for _ in range(40):
        x @ x
    return 1e3 * (time.perf_counter() - began)
