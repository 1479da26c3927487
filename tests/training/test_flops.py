"""The formula of the model's operations against the compiler's count; the table of peaks."""

import numpy as np
import pytest

from configs.data_spec import DataSpec
from parallel.mesh import make_mesh
from reporting.step_meter import StepMeter
from tests.selection import few_of
from tests.training import runs
from training.flops import peak
from training.program import build_program
from training.scalars import Scalars

WIDE = {
    "model.width": "256",
    "model.depth": "2",
    "data.sequence_length": "128",
    "data.global_batch_size": "16",
    "mesh.data": "1",
}
MODELS = {
    "attention": ("python_stdlib", {}),
    "grouped heads, tied, gelu": (
        "python_stdlib",
        {"model.num_kv_heads": "2", "model.tied_embeddings": "true", "model.feed_forward": "gelu"},
    ),
    "recurrence": (
        "shakespeare_char_lstm",
        {
            "data.sequence_length": "16",
            "data.global_batch_size": "128",
            "optimizer.name": "adamw",  # Muon's own products are not the model's
        },
    ),
    "pictures": ("digits_cnn", {"model.channels": "32,64,64", "data.global_batch_size": "16"}),
}


@pytest.mark.parametrize("model", few_of(MODELS, "pictures"))
def test_the_formula_agrees_with_the_compiler_within_a_tenth(model):
    recipe, fields = MODELS[model]
    fields = {"mesh.data": "1"} | fields if recipe == "digits_cnn" else WIDE | fields
    config = runs.load(recipe, **{name.replace(".", "__"): value for name, value in fields.items()})
    if recipe == "digits_cnn":  # Large, as the compiler does not count what lies over the edge.
        spec = DataSpec(num_classes=10, image_shape=(64, 64, 3))
        B = config.data.global_batch_size
        batch = {
            "image": np.zeros((B, 64, 64, 3), np.uint8),
            "label": np.zeros(B, np.int32),
            "weights": np.zeros(B, np.float32),
        }
        program = build_program(config, spec, make_mesh(config))
    else:
        batch = next(runs.batches(config, 1))
        program = runs.build(config)
    batch = program.batch_shape(batch, config.data.global_batch_size)
    compiled = program.train_step.lower(program.abstract_state, batch).compile()
    counted = compiled.cost_analysis()["flops"] / config.data.global_batch_size
    if config.model.architecture == "decoder" and config.model.pattern == "R":
        # The compiler counts the body of a loop once: 4 D x D forward, and once more backward.
        times, products = config.data.sequence_length - 1, 2 * 4 * config.model.width**2
        counted += config.model.depth * 2 * times * products
    assert program.flops_per_example == pytest.approx(counted, rel=0.1)


def test_scanned_layers_and_a_window_are_counted():
    length = {"data__sequence_length": "128", "model__width": "64", "model__depth": "2"}
    plain = runs.build(runs.load("python_stdlib", **length)).flops_per_example
    scanned = runs.load("python_stdlib", model__scan_layers="true", **length)
    assert runs.build(scanned).flops_per_example == plain
    narrow = runs.load("python_stdlib", model__attention_window="32", **length)
    assert plain - runs.build(narrow).flops_per_example == 12 * 2 * 64 * (128 - 32) * 128


@pytest.mark.parametrize(
    "kind, teraflops",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("cpu", None),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_the_peak_of_a_kind_of_device(kind, teraflops):
    found = peak(kind)
    assert (found and found.flops) == (teraflops and pytest.approx(teraflops * 1e12))


def test_mfu_is_logged_where_the_peak_is_known():
    meter = StepMeter(8, peak_examples_per_second=1e6)
    meter.push(1, Scalars.of({"loss": 0.0, "weight": 8.0}))
    meter.drain()
    rates = meter.take_rates()
    assert rates["mfu"] == rates["examples_per_second"] / 1e6 > 0
    assert "mfu" not in StepMeter(8).take_rates()
