"""The environment of a run: versions, devices, flags, host, command, and the code's commit."""

import functools
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

LIBRARIES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "libtpu", "flax", "optax", "orbax-checkpoint", "grain",
    "tensorflow-datasets", "array-record", "tokenizers", "numpy",
)  # fmt: skip
"""Libraries that can change a result. Those that are not installed are left out of the report."""

FLAG_PREFIXES = ("JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_VISIBLE", "NCCL_", "TF_", "TRIFORM_")


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of each installed library of `LIBRARIES`."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def environment(tuned: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Describe this process for the report: command, commit, devices, machine, flags and versions.
    Initialises JAX if needed.

    tuned: the flags that `set_environment` set. Values are text; `flags` and `versions` are {name:
    text}.
    """
    import jax

    kinds = Counter((device.platform, device.device_kind) for device in jax.devices())
    processes = jax.process_count()
    names = [
        f"{count} × {kind}" if kind == kind_of else f"{count} × {kind} ({kind_of})"
        for (kind_of, kind), count in kinds.items()
    ]
    return {
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "devices": ", ".join(names) + (f", {processes} processes" if processes > 1 else ""),
        "host": socket.gethostname(),
        "processor": _processor(),
        "memory": _memory(),
        "system": platform.platform(),
        "flags": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(FLAG_PREFIXES)
        }
        | dict(tuned or {}),
        "versions": versions(),
    }


def _commit() -> str:
    """Return the git commit of the code, with a note if files have uncommitted changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # The root itself must be the repository: the code may be unpacked inside another one.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return "not in a repository"
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (", with uncommitted changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "not in a repository"


def _processor() -> str:
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            named = [line.partition(":")[2].strip() for line in lines if "model name" in line]
            model = named[0] if named else model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {usable} {'core' if usable == 1 else 'cores'}"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total / 2**30:.1f} GiB"
