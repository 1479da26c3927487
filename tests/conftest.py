"""What every test shares: eight virtual CPU devices, programs that are compiled quickly, and no
file outside the test's own folders."""

import gc
import os
import sys
import zlib

from tests.compilation import QUICK_FLAGS

# Before JAX is imported anywhere. The meshes of the tests need devices.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK_FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"

import pytest
from hypothesis import HealthCheck, settings

from tests.selection import FULL
from tests.storage.emulators import gs, place, s3  # noqa: F401  (fixtures)

# How long an example takes says nothing of the code where other work runs beside the tests.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="run the K-th of N parts of the tests")


@pytest.hookimpl(tryfirst=True)  # before -m is followed
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.nodeid.startswith(FULL):
            item.add_marker("full")
    if not (part := config.getoption("--part")):
        return
    number, _, parts = (int(digits) if digits.isdecimal() else 0 for digits in part.partition("/"))
    if not 1 <= number <= parts:
        raise pytest.UsageError(f"--part={part}: give K/N, two numbers with K from 1 to N")
    chosen = [zlib.crc32(item.nodeid.encode()) % parts == number - 1 for item in items]
    left = [item for item, is_chosen in zip(items, chosen, strict=True) if not is_chosen]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item, is_chosen in zip(items, chosen, strict=True) if is_chosen]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> str:
    """A cache of prepared data that the tests of one process share."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(cache_dir):
    """Before any other fixture: servers that a whole module asks must not find the user's cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRIFORM_CACHE", cache_dir)
        yield


MOST_PROGRAMS = 64
"""Compiled programs that a process keeps from test to test, beside those of fixtures: each makes
the next take longer to compile (by a third once ten large ones are there)."""

_of_fixtures = 0
"""Programs that were left when all others were dropped."""


@pytest.fixture(autouse=True)
def _few_programs():
    global _of_fixtures
    yield
    if (jax := sys.modules.get("jax")) is None:
        return
    client = jax.local_devices()[0].client
    if len(client.live_executables()) > _of_fixtures + MOST_PROGRAMS:
        jax.clear_caches()
        gc.collect()
        _of_fixtures = len(client.live_executables())
