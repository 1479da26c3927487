"""Changes settings that have to be set before JAX starts: malloc on CPU, XLA flags on GPU.

The platform that JAX will use is guessed, without importing JAX. The user's own settings are kept.
Sources and measurements: docs/results.md, "What the program sets before JAX starts".
"""

import ctypes
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from configs.errors import UsageError
from configs.schema.config import Config

MALLOC = {
    "M_MMAP_MAX": (-4, 0, "MALLOC_MMAP_MAX_"),
    "M_TRIM_THRESHOLD": (-1, -1, "MALLOC_TRIM_THRESHOLD_"),
    "M_TOP_PAD": (-2, 64 << 20, "MALLOC_TOP_PAD_"),
}
"""Parameters of glibc's malloc: name to (number, value, environment variable that sets it too).

XLA allocates new buffers in each step, and the system clears every page that it hands out. With
these values, memory comes from the heap. The heap grows by 64 MiB more than needed and never
shrinks, so that a step reuses the pages of the step before.
"""

ASYNC_DISPATCH = "jax_cpu_enable_async_dispatch"
"""An option of JAX. No environment variable sets it. If it is off, a step runs in the thread that
calls it: the main thread. In any other thread, the heap is limited to 64 MiB; larger buffers would
be mapped anew, and their pages cleared, in each step."""

DETERMINISTIC_GPU = "--xla_gpu_deterministic_ops=true"
"""Excludes operations whose results depend on the order of threads (it includes the flag
`xla_gpu_exclude_nondeterministic_ops`), and switches off autotuning, which may choose different
algorithms in each run."""


@dataclass(frozen=True)
class Setting:
    """A setting to make before JAX starts, with the reason for it."""

    name: str
    value: str
    reason: str


def planned_environment(config: Config) -> list[Setting]:
    """Return the settings that `set_environment` would make, without making them.

    Raises `UsageError` if the user's `XLA_FLAGS` forbid what a field asks for.
    """
    platform = guess_platform()
    planned = []
    if config.train.tune_environment and platform == "cpu" and _malloc_is_glibc():
        reason = "keeps the memory of a step's buffers for the next step"
        planned += [
            Setting(f"mallopt {name}", str(value), reason)
            for name, (_, value, variable) in MALLOC.items()
            if variable not in os.environ
        ]
        reason = "runs steps in the main thread, whose memory is kept"
        planned.append(Setting(ASYNC_DISPATCH, "False", reason))
    field = config.train.repeatable_field
    if field is not None and platform == "gpu":
        flag = DETERMINISTIC_GPU.partition("=")[0]
        given = [one for one in _xla_flags().split() if one.partition("=")[0] == flag]
        if given and given[-1].lower() not in (flag, DETERMINISTIC_GPU, f"{flag}=1"):
            raise UsageError(f"{field} needs {DETERMINISTIC_GPU}: remove {given[-1]} of XLA_FLAGS")
        if not given:
            planned.append(Setting("XLA_FLAGS", DETERMINISTIC_GPU, field))
    return planned


def set_environment(config: Config) -> dict[str, str]:
    """Make the settings of `planned_environment`. Call this before JAX starts.

    Returns the name and value of each setting that took effect.
    """
    done = {}
    for setting in planned_environment(config):
        if setting.name.startswith("mallopt "):
            if not _mallopt(setting.name.removeprefix("mallopt ")):
                continue
        elif setting.name == "XLA_FLAGS":
            os.environ["XLA_FLAGS"] = f"{_xla_flags()} {setting.value}".strip()
        done[setting.name] = setting.value
    if ASYNC_DISPATCH in done:  # Last, because the other settings must precede the import of JAX.
        import jax

        jax.config.update(ASYNC_DISPATCH, False)
    return done


def explain_environment(config: Config) -> str:
    """Describe the settings made before JAX starts, as lines for `--explain`."""
    head = f"ENVIRONMENT: set before JAX starts on {guess_platform()}; your own settings stay."
    planned = planned_environment(config)
    lines = [f"  {setting.name} = {setting.value}: {setting.reason}" for setting in planned]
    return "\n".join([head, *(lines or ["  nothing"])])


def enable_compilation_cache(cache: Path) -> None:
    """Cache compiled programs in the folder `cache`/compiled, for the next start of the program.

    Only programs that took 0.1 s or more to compile are cached.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def guess_platform() -> str:
    """Return the platform that JAX will probably use: cpu, gpu or tpu."""
    asked = os.environ.get("JAX_PLATFORMS", "").partition(",")[0].lower()
    if asked:
        return "gpu" if asked in ("cuda", "rocm", "gpu") else asked
    if find_spec("libtpu") and any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0"))):
        return "tpu"
    plugin = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if plugin and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return "gpu"
    return "cpu"


def _xla_flags() -> str:
    return os.environ.get("XLA_FLAGS", "")


def _malloc_is_glibc() -> bool:
    """Return whether malloc is glibc's and the user does not tune it with GLIBC_TUNABLES.

    musl and macOS have no `mallopt`.
    """
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return False
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return bool(glibc) and not tuned and hasattr(ctypes.CDLL(None), "mallopt")


def _mallopt(name: str) -> bool:
    number, value, _ = MALLOC[name]
    return ctypes.CDLL(None).mallopt(number, value) == 1
