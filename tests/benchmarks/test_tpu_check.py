"""`make tpu-check` at toy size, on the CPU devices of the tests in place of a slice."""

import jax
import pytest

from benchmarks import tpu_check
from benchmarks.tpu_check import Row

TOY = {
    "data.sequence_length": "128",
    "data.global_batch_size": "8",
    "model.width": "64",
    "model.depth": "2",
    "model.feed_forward_width": "128",
}


@pytest.mark.parametrize(
    "row, attention",
    [
        (Row("llama_8b", "toy", 512, fields=TOY), "XLA"),
        (Row("shakespeare_char_lstm", "toy", fields={"data.global_batch_size": "16"}), "none"),
        (Row("digits_cnn", "toy"), "none"),
    ],
)
def test_a_row_tells_what_the_compiler_says(row, attention):
    cells = dict(zip(tpu_check.HEAD, tpu_check.columns(row, jax.devices()), strict=True))
    assert cells["recipe"] == f"`{row.recipe}`"
    assert cells["slice"].startswith("toy, ") and cells["slice"].endswith("=8")
    assert cells["attention"] == attention
    state, step = float(cells["state"]), float(cells["step"])
    assert 0 < state < 0.1 and 0 < step < 1
    assert float(cells["GiB a chip"]) == pytest.approx(state + step, abs=0.01)
