"""What the program sets before JAX starts: where it belongs, and never over the user's head."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.config import Config
from parallel import environment

ROOT = Path(__file__).parents[2]
FAULTS = """
import ctypes, resource, sys
from configs.reading.recipes import load_config
from parallel import environment
config = load_config("configs/digits_cnn.py", {"train.tune_environment": sys.argv[1]})
set_one = environment._mallopt
def before_jax(name):
    assert "jax" not in sys.modules
    return set_one(name)
environment._mallopt = before_jax
environment.set_environment(config)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = libc.malloc(64 << 20)
    libc.memset(buffer, 1, 64 << 20)
    libc.free(buffer)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""  # noqa: E501
STEPS = """
import resource, sys
from configs.reading.recipes import load_config
from parallel.environment import set_environment
config = load_config("configs/digits_cnn.py", {"train.tune_environment": sys.argv[1]})
set_environment(config)
import jax, jax.numpy as jnp
step = jax.jit(lambda x: (jnp.sin(x @ x[:64]) @ x[:64, :1]).max())  # through a buffer of 96 MiB
x = jnp.ones((24 << 14, 64))
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in (
        "XLA_FLAGS",
        "GLIBC_TUNABLES",
        *(name for _, _, name in environment.MALLOC.values()),
    ):
        monkeypatch.delenv(name, raising=False)


def load(**fields: str) -> Config:
    overrides = {f"train.{name}": value for name, value in fields.items()}
    return load_config("configs/digits_cnn.py", overrides)


def page_faults(tune: str, program: str = FAULTS, **more: str) -> list[int]:
    """Of the first use of some memory and of later ones, in a process of its own."""
    command = [sys.executable, "-c", program, tune]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | more
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    return [int(line) for line in output.stdout.split()]


def test_memory_is_kept_on_cpu_unless_the_field_or_the_user_says_no():
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    if not environment.planned_environment(load()):
        assert sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION")
        return
    assert page_faults("true")[1] < pages / 100
    assert page_faults("false")[1] > pages / 2
    assert page_faults("true", GLIBC_TUNABLES="glibc.malloc.trim_threshold=4096")[1] > pages / 2


def test_what_xla_asks_for_comes_from_the_memory_that_is_kept():
    if not environment.planned_environment(load()):
        return
    pages = (96 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert median(page_faults("true", STEPS)) < pages / 10
    assert median(page_faults("false", STEPS)) > pages / 2


def test_what_the_user_set_is_left_alone(monkeypatch):
    names = [setting.name for setting in environment.planned_environment(load())]
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    left = [setting.name for setting in environment.planned_environment(load())]
    assert set(names) - set(left) == ({"mallopt M_TOP_PAD"} if names else set())


def test_another_libc_and_another_platform_get_nothing(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert environment.set_environment(load()) == {}
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert environment.set_environment(load()) == {}


def test_a_deterministic_gpu_gets_its_flag_beside_the_users_own(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    environment.set_environment(load(deterministic="true"))
    both = f"--xla_dump_to=/nowhere {environment.DETERMINISTIC_GPU}"
    assert os.environ["XLA_FLAGS"] == both
    environment.set_environment(load(deterministic="true"))
    assert os.environ["XLA_FLAGS"] == both


@pytest.mark.parametrize("name", ["recompute_every_steps", "compare_replicas_every_steps"])
def test_checks_that_compare_bits_need_a_deterministic_gpu(name, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    environment.set_environment(load(**{name: "10"}))
    assert os.environ["XLA_FLAGS"] == environment.DETERMINISTIC_GPU


def test_a_flag_that_forbids_what_is_asked_for_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    flag = "--xla_gpu_deterministic_ops=false"
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/nowhere {flag}")
    with pytest.raises(UsageError, match=rf"train\.deterministic needs .*: remove {flag} of"):
        environment.planned_environment(load(deterministic="true"))
    assert environment.planned_environment(load()) == []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    environment.planned_environment(load(deterministic="true"))


def test_explain_tells_of_it():
    command = [sys.executable, "train.py", "--config=configs/digits_cnn.py", "--explain"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (
        told.splitlines()[-1].startswith("  ") and "ENVIRONMENT: set before JAX starts on" in told
    )
