"""The profiler traces the window it was asked for, and says where it lies."""

from contextlib import closing, suppress

import jax
import jax.numpy as jnp

from configs.reading.recipes import load_config
from reporting.profiler import Profiler


def traced(tmp_path, steps: int, *, done: int = 0, **fields: str) -> list[str]:
    """What is told of a run of `steps` tiny steps; at step 5 it fails."""
    overrides = {f"train.{name}": value for name, value in fields.items()}
    told = []
    config = load_config("configs/digits_cnn.py", overrides)
    double = jax.jit(lambda x: 2 * x)
    profiler = Profiler(config, tmp_path, told.append, done=done)
    with suppress(ArithmeticError), closing(profiler):
        for step in range(done + 1, steps + 1):
            profiler.begin(step)
            metrics = {"loss": double(jnp.ones(8))}
            profiler.end(step, metrics)
            if step == 2:
                assert not told
            if step == 5:
                raise ArithmeticError
    return told


def test_a_window_is_traced_and_one_cut_short_is_written_too(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = traced(whole, 5, profile_from_step="3", profile_steps="2")
    told += traced(cut, 4, profile_from_step="3", profile_steps="20")
    told += traced(tmp_path / "failed", 6, profile_from_step="3", profile_steps="20")
    assert len(told) == 3 and len(list(tmp_path.rglob("*.xplane.pb"))) == 3
    assert all(line.split()[6].endswith(".trace.json.gz") for line in told)
    assert f"xprof --logdir={whole / 'profile'}" in told[0]


def test_without_the_field_nothing_is_traced(tmp_path):
    assert traced(tmp_path, 3) == [] and list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_behind_the_window_says_so(tmp_path):
    (line,) = traced(tmp_path, 5, done=3, profile_from_step="3", profile_steps="9")
    assert line == (
        "nothing is profiled this time: step 3 (train.profile_from_step) was done before, and "
        "this run goes on from step 3"
    )
    assert list(tmp_path.iterdir()) == []
    assert len(traced(tmp_path, 5, done=2, profile_from_step="3")) == 1
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
