"""What every test shares: eight virtual CPU devices, programs that are compiled quickly, and no
file outside the test's own folders."""

import os

# Before JAX is imported anywhere. The meshes of the tests need devices; and most of what they
# compile runs a few times, so that what makes it fast would take longer than it saves.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import pytest


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> str:
    """A cache of prepared data that the tests of one process share."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _private_cache(cache_dir, monkeypatch):
    monkeypatch.setenv("TRIFORM_CACHE", cache_dir)
