"""The profiler traces the window it was asked for, and says where it lies."""

import jax
import jax.numpy as jnp

import configs
from training.profiler import Profiler


def traced(tmp_path, steps: int, **fields: str) -> list[str]:
    """What is told of a run of `steps` tiny steps."""
    overrides = {f"train.{name}": value for name, value in fields.items()}
    told = []
    profiler = Profiler(
        configs.load_config("configs/digits_cnn.py", overrides), tmp_path, told.append
    )
    double = jax.jit(lambda x: 2 * x)
    for step in range(1, steps + 1):
        profiler.begin(step)
        metrics = {"loss": double(jnp.ones(8))}
        profiler.end(step, metrics)
        if step == 2:
            assert not told
    profiler.close()
    return told


def test_a_window_is_traced_and_one_cut_short_is_closed(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = traced(whole, 5, profile_from_step="3", profile_steps="2")
    told += traced(cut, 4, profile_from_step="3", profile_steps="20")
    assert len(told) == 2 and len(list(tmp_path.rglob("*.xplane.pb"))) == 2
    assert all(line.split()[6].endswith(".trace.json.gz") for line in told)
    assert f"xprof --logdir={whole / 'profile'}" in told[0]


def test_without_the_field_nothing_is_traced(tmp_path):
    assert traced(tmp_path, 3) == [] and list(tmp_path.iterdir()) == []
