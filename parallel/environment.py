"""What suits the platform and has to be set before JAX starts: memory on CPU, flags on GPU.

Which platform JAX will take is told from the environment and the machine, without it. What the
user set stays. Sources and figures: docs/results.md, "What the program sets before JAX starts".
"""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from configs.schema.config import Config

MALLOC = {
    "M_MMAP_MAX": (-4, 0, "MALLOC_MMAP_MAX_"),
    "M_TRIM_THRESHOLD": (-1, -1, "MALLOC_TRIM_THRESHOLD_"),
    "M_TOP_PAD": (-2, 64 << 20, "MALLOC_TOP_PAD_"),
}
"""Of glibc's malloc: name, (number, value, the variable by which a user sets it). Together: memory
comes from the heap, 64 MiB more than asked for, and is never given back. XLA asks for its buffers
anew in each step, and every page that comes back from the system has to be cleared first."""

ASYNC_DISPATCH = "jax_cpu_enable_async_dispatch"
"""Of JAX, which no variable sets. Without it a step runs in the thread that asks for it, the main
one. The heap of any other thread ends at 64 MiB: what is larger would be mapped, and its pages
cleared, anew in each step after all."""

DETERMINISTIC_GPU = "--xla_gpu_deterministic_ops=true"
"""Also switches autotuning off, which may choose other algorithms in each run."""


@dataclass(frozen=True)
class Setting:
    """What is set, to what, and why."""

    name: str
    value: str
    why: str


def planned_environment(config: Config) -> list[Setting]:
    """What `set_environment` would set here; touches nothing."""
    platform = guess_platform()
    planned = []
    if config.train.tune_environment and platform == "cpu" and _malloc_is_glibc():
        why = "keeps the memory of a step's buffers for the next step"
        planned += [
            Setting(f"mallopt {name}", str(value), why)
            for name, (_, value, variable) in MALLOC.items()
            if variable not in os.environ
        ]
        why = "runs steps in the main thread, whose memory is kept"
        planned.append(Setting(ASYNC_DISPATCH, "False", why))
    flag = DETERMINISTIC_GPU.partition("=")[0]
    if config.train.deterministic and platform == "gpu" and flag not in _xla_flags():
        planned.append(Setting("XLA_FLAGS", DETERMINISTIC_GPU, "train.deterministic"))
    return planned


def set_environment(config: Config) -> dict[str, str]:
    """Sets what `planned_environment` says, before JAX starts. Returns {name: value} of it."""
    done = {}
    for setting in planned_environment(config):
        if setting.name.startswith("mallopt "):
            if not _mallopt(setting.name.removeprefix("mallopt ")):
                continue
        elif setting.name == "XLA_FLAGS":
            os.environ["XLA_FLAGS"] = f"{_xla_flags()} {setting.value}".strip()
        done[setting.name] = setting.value
    if ASYNC_DISPATCH in done:  # The last: what stands above is for the import of JAX too.
        import jax

        jax.config.update(ASYNC_DISPATCH, False)
    return done


def explain_environment(config: Config) -> str:
    """What is set before JAX starts, as lines of `--explain`."""
    head = f"ENVIRONMENT: set before JAX starts on {guess_platform()}; your own settings stay."
    planned = planned_environment(config)
    lines = [f"  {setting.name} = {setting.value}: {setting.why}" for setting in planned]
    return "\n".join([head, *(lines or ["  nothing"])])


def enable_compilation_cache(cache: Path) -> None:
    """Keeps what XLA compiles under `cache`, for the next start; all that takes long enough."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def guess_platform(environment: Mapping[str, str] = os.environ) -> str:
    """The platform that JAX will take, if all goes well: cpu, gpu or tpu."""
    asked = environment.get("JAX_PLATFORMS", "").partition(",")[0].lower()
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
    """Whether glibc's malloc can be told; musl and macOS have no such thing, and need none."""
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return False
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return bool(glibc) and not tuned and hasattr(ctypes.CDLL(None), "mallopt")


def _mallopt(name: str) -> bool:
    number, value, _ = MALLOC[name]
    return ctypes.CDLL(None).mallopt(number, value) == 1
