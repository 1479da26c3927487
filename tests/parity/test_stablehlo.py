"""Static modules of StableHLO: IREE compiles them, and computes what JAX computes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.interop.programs import restored, run_isolated, script, written

pytest.importorskip("iree.compiler")

WORKDIRS = ("attention_text", "rnn_text", "convolution_pictures", "attention_pairs")


@pytest.mark.parametrize("name", WORKDIRS)
def test_iree_computes_the_same_logits(name, tmp_path):
    programs, _ = written(restored(name), tmp_path / "out")
    inputs = {
        argument["name"]: drawn(argument)
        for argument in programs.listing["static"]["arguments"]
        if argument["name"] not in programs.weights
    }
    np.savez(tmp_path / "in.npz", **inputs)
    path = script("run_iree.py", tmp_path)
    files = (tmp_path / "in.npz", tmp_path / "out.npz")
    run_isolated(path, programs.path, *files, more=["iree.compiler"])
    expected = programs.call("forward", *inputs.values())
    with np.load(tmp_path / "out.npz") as results:
        np.testing.assert_allclose(results["logits"], expected["logits"], rtol=0, atol=1e-5)


def drawn(argument: dict[str, Any]) -> NDArray:
    """Return an input."""
    if argument["name"].endswith("segments"):
        return np.ones(argument["shape"], argument["dtype"])
    integers = np.random.default_rng(0).integers(0, 10, argument["shape"])
    return integers.astype(argument["dtype"])
