"""What counts as waiting for input, and when the metrics of a step are read."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from reporting import step_meter
from reporting.step_meter import StepMeter
from training.scalars import Scalars


@jax.jit
def long_step(x):
    return jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ x), x).sum()


def meter(log_every_steps: int = 10) -> StepMeter:
    return StepMeter(8, log_every_steps=log_every_steps)


def numbers(loss: float = 0.0) -> Scalars:
    return jax.block_until_ready(Scalars.of({"loss": loss, "weight": 8.0}))


def slow_batches(seconds: float) -> Iterator[str]:
    while True:
        time.sleep(seconds)
        yield "a batch"


def test_waiting_while_the_devices_are_busy_costs_nothing():
    x = jnp.eye(512)
    long_step(x).block_until_ready()
    for _ in range(100):
        busy = meter()
        batches = busy.waiting_for(slow_batches(0.001))
        metrics = Scalars(long_step(x)[None], ("weight",))
        busy.push(1, metrics)
        assert next(batches) == "a batch"
        if not metrics.is_ready():  # Beside other work the step may be over before: then again.
            break
    assert not metrics.is_ready()
    busy.drain()
    assert busy.take_rates()["input_wait_fraction"] == 0.0


def test_waiting_while_they_have_nothing_to_do_counts():
    idle = meter()
    idle.push(1, numbers())
    next(idle.waiting_for(slow_batches(0.05)))
    began = time.perf_counter()
    idle.drain()
    rates = idle.take_rates()
    busy = time.perf_counter() - began
    assert 0.05 / (0.05 + busy + 0.5) < rates["input_wait_fraction"] <= 1.0


def test_batches_end_where_they_end():
    assert list(meter().waiting_for(iter([1, 2]))) == [1, 2]


def pushed(one: StepMeter, steps: range) -> dict[int, list[int]]:
    """What each push gave back."""
    found = {step: one.push(step, numbers(step), crc=2**31 + step) for step in steps}
    for step, metrics in (pair for ready in found.values() for pair in ready):
        assert metrics == {"loss": step, "weight": 8.0, "crc": 2**31 + step}
    return {push: [step for step, _ in ready] for push, ready in found.items() if ready}


def test_quick_steps_are_read_together_and_a_logged_one_when_the_next_is_pushed(monkeypatch):
    monkeypatch.setattr(step_meter, "SECONDS_UNREAD", 3600)
    one = meter()
    assert pushed(one, range(1, 26)) == {2: [1], 11: [*range(2, 11)], 21: [*range(11, 21)]}
    assert [step for step, _ in one.drain()] == [*range(21, 26)]
    assert one.drain() == []


def test_no_more_are_left_unread_than_fit():
    one = meter(log_every_steps=1000)
    lengths = [len(one.push(step, numbers())) for step in range(1, 200)]
    assert max(lengths) <= step_meter.READ_TOGETHER
    assert sum(lengths) + len(one.drain()) == 199


@pytest.mark.parametrize("several", [False, True], ids=["slow steps", "several processes"])
def test_slow_steps_and_those_of_several_processes_are_read_one_by_one(several, monkeypatch):
    if several:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
    else:
        monkeypatch.setattr(step_meter, "SECONDS_UNREAD", 0.0)
    assert pushed(meter(), range(1, 30)) == {step: [step - 1] for step in range(2, 30)}


def test_rates_are_of_all_steps_read_and_the_same_until_there_are_others(monkeypatch):
    monkeypatch.setattr(step_meter, "SECONDS_UNREAD", 3600)
    began, one = time.perf_counter(), meter()
    for step in range(1, 9):
        one.push(step, numbers(), tokens=24.0)
    ready = one.drain()
    assert len(ready) == 7 and all("tokens" not in metrics for _, metrics in ready)
    rates = one.take_rates()
    assert 0 < 8 * rates["step_seconds"] <= time.perf_counter() - began
    assert rates["tokens_per_second"] == pytest.approx(3 * rates["examples_per_second"])
    assert one.take_rates() == rates
    one.push(9, numbers())
    one.drain()
    assert one.take_rates() != rates and "tokens_per_second" not in one.take_rates()
