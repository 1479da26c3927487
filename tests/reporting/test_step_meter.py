"""What counts as waiting for input, and when the metrics of a step are read."""

import time

import jax
import jax.numpy as jnp
import pytest

from reporting.step_meter import StepMeter
from training.scalars import Scalars


@jax.jit
def long_step(x):
    return jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ x), x).sum()


def meter() -> StepMeter:
    return StepMeter(8)


def numbers(loss: float = 0.0) -> Scalars:
    return jax.block_until_ready(Scalars.of({"loss": loss, "weight": 8.0}))


def test_waiting_while_the_devices_are_busy_costs_nothing():
    x = jnp.eye(512)
    long_step(x).block_until_ready()
    for _ in range(100):
        busy = meter()
        metrics = Scalars(long_step(x)[None], ("weight",))
        busy.push(1, metrics)
        with busy.waiting():
            time.sleep(0.001)
        if not metrics.is_ready():  # Beside other work the step may be over before: then again.
            break
    assert not metrics.is_ready()
    busy.drain()
    assert busy.take_rates()["input_wait_fraction"] == 0.0


def test_waiting_while_they_have_nothing_to_do_counts():
    idle = meter()
    idle.push(1, numbers())
    with idle.waiting():
        time.sleep(0.05)
    began = time.perf_counter()
    idle.drain()
    rates = idle.take_rates()
    busy = time.perf_counter() - began
    assert 0.05 / (0.05 + busy + 0.5) < rates["input_wait_fraction"] <= 1.0


def pushed(one: StepMeter, steps: range) -> dict[int, list[int]]:
    """What each push gave back."""
    found = {step: one.push(step, numbers(step), crc=2**31 + step) for step in steps}
    for step, metrics in (pair for ready in found.values() for pair in ready):
        assert metrics == {"loss": step, "weight": 8.0, "crc": 2**31 + step}
    return {push: [step for step, _ in ready] for push, ready in found.items() if ready}


def test_the_metrics_of_a_step_are_read_when_the_next_is_pushed():
    """One step late, on one process as on several: all read, and perhaps end, at the same step."""
    one = meter()
    assert pushed(one, range(1, 30)) == {step: [step - 1] for step in range(2, 30)}
    assert [step for step, _ in one.drain()] == [29]
    assert one.drain() == []


def test_a_step_is_not_waited_for_before_the_next_is_pushed():
    """The devices never wait for the host: what was pushed last is not read yet."""
    x = jnp.eye(512)
    long_step(x).block_until_ready()
    for _ in range(100):
        busy, metrics = meter(), Scalars(long_step(x)[None], ("weight",))
        assert busy.push(1, metrics) == []
        if not metrics.is_ready():  # Beside other work the step may be over before: then again.
            break
    assert not metrics.is_ready()
    ((step, _),) = busy.push(2, numbers())
    assert step == 1 and metrics.is_ready()


def test_rates_are_of_all_steps_read_and_the_same_until_there_are_others():
    began, one = time.perf_counter(), meter()
    ready = [pair for step in range(1, 9) for pair in one.push(step, numbers(), tokens=24.0)]
    ready += one.drain()
    assert len(ready) == 8 and all("tokens" not in metrics for _, metrics in ready)
    rates = one.take_rates()
    assert 0 < 8 * rates["step_seconds"] <= time.perf_counter() - began
    assert rates["tokens_per_second"] == pytest.approx(3 * rates["examples_per_second"])
    assert one.take_rates() == rates
    one.push(9, numbers())
    one.drain()
    assert one.take_rates() != rates and "tokens_per_second" not in one.take_rates()
