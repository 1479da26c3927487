"""What counts as waiting for input: the time in which the devices had nothing to do."""

import time

import jax
import jax.numpy as jnp

from training.step_meter import StepMeter


@jax.jit
def long_step(x):
    return jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ x), x).sum()


def test_waiting_while_the_devices_are_busy_costs_nothing():
    x = jnp.eye(512)
    long_step(x).block_until_ready()
    meter = StepMeter(8, counts_tokens=False)
    loss = long_step(x)
    assert not loss.is_ready()
    meter.push(1, {"loss": loss, "weight": 8.0})
    with meter.waiting():
        time.sleep(0.001)
    assert not loss.is_ready()
    meter.drain()
    assert meter.take_rates()["input_wait_fraction"] == 0.0


def test_waiting_while_they_have_nothing_to_do_counts():
    meter = StepMeter(8, counts_tokens=False)
    meter.push(1, {"loss": jnp.zeros(()).block_until_ready(), "weight": 8.0})
    with meter.waiting():
        time.sleep(0.05)
    began = time.perf_counter()
    meter.drain()
    rates = meter.take_rates()
    busy = time.perf_counter() - began
    assert 0.05 / (0.05 + busy + 0.5) < rates["input_wait_fraction"] <= 1.0
