"""The checks of `make gpu-run` that compare devices, small, on CPU: that they can be run, and that
they can fail."""

import jax
import pytest

from benchmarks import gpu_check
from benchmarks.findings import Failed
from model.layers.attend import NATIVE_ATTENTION
from tests.end_to_end.verbs import environment


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setitem(NATIVE_ATTENTION, "cpu", "splash")
    jax.devices()  # before the processes' flags: later tests of this process need all of them
    monkeypatch.setenv("XLA_FLAGS", environment()["XLA_FLAGS"])
    return gpu_check.Checks(toy=True)


def test_losses_on_two_devices_are_compared(checks, monkeypatch):
    assert checks.parity("digits_cnn", "float32") == "losses differ by 0.0e+00 at most"
    monkeypatch.setitem(gpu_check.TOLERANCE, "float32", -1.0)
    with pytest.raises(Failed, match="losses differ by 0"):
        checks.parity("digits_cnn", "float32")


def test_attention_is_compared_dispatched_and_falls_back(checks):
    assert "splash differs by causal 0." in checks.attention_kinds()
    assert checks.attention_dispatch().startswith("model.attention=auto: splash")
    assert checks.attention_fallback().endswith("RuntimeError: planted by gpu_check.py")
