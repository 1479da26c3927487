"""What becomes of the learning rate where a run goes on with other steps."""

from typing import Any

import numpy as np
import pytest

from configs.schema.config import Config
from training.schedules import build_schedule, schedule_change, warmup_steps


def config(steps: int, schedule: str = "cosine", warmup: int = 1000) -> Config:
    optimizer = {"name": "adamw", "schedule": schedule, "warmup_steps": warmup}
    return Config.model_validate({"train": {"steps": steps}, "optimizer": optimizer})


def manifest(of: Config, step: int, **history: Any) -> dict[str, Any]:
    return {"step": step, "config": of.model_dump(mode="json"), "history": history}


@pytest.mark.parametrize("history", [{"warmup_steps": 10}, {}])
def test_the_warm_up_is_the_one_that_the_run_began_with(history):
    saved = manifest(config(100), 100, **history)
    assert warmup_steps(config(100)) == 10
    assert warmup_steps(config(2000)) == 1000
    assert warmup_steps(config(2000), saved) == 10


def test_it_is_kept_from_sitting_to_sitting():
    first = manifest(config(100), 100)
    second = manifest(config(2000), 200, warmup_steps=warmup_steps(config(2000), first))
    assert warmup_steps(config(5000), second) == 10


def test_the_rate_does_not_rise_again_after_a_constant_schedule():
    saved = manifest(config(100, "constant"), 100)
    rates = np.asarray(build_schedule(config(2000, "constant"), 10)(np.arange(100, 2000)))
    assert (rates == rates[0]).all()
    assert schedule_change(config(2000, "constant"), saved, 10) is None


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_another_rate_is_told_with_both_values(schedule):
    saved, longer = manifest(config(100, schedule), 90), config(2000, schedule)
    was = float(build_schedule(config(100, schedule), 10)(90))
    now = float(build_schedule(longer, 10)(90))
    assert now > was
    told = schedule_change(longer, saved, 10)
    assert told.startswith(f"the learning rate of step 91 is {now:.3g}, and was to be {was:.3g}: ")
    assert "train.steps=2000, and went over 100" in told
    assert schedule_change(config(100, schedule), saved, 10) is None
