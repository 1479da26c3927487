"""What a short run makes of its settings is told."""

import pytest

from configs.schema.config import Config
from reporting.explanation import warnings_of
from training.schedules import warmup_steps


@pytest.mark.parametrize(
    ("steps", "warmup", "decay", "told"),
    [
        (1000, 10, None, []),
        (1000, 10, 0.99, []),
        (100, 10, 0.999, ["train.ema_decay=0.999 averages over 1,000 steps, and this run has 100: "
                          "initial values keep 90% of the average, which is what is "
                          "evaluated. Use 0.95, or evaluate with --weights=raw"]),
        (100, 200, None, ["optimizer.warmup_steps=200 is as long as the run or longer: the warm-up "
                          "is cut to 10, a tenth of the steps that the run began with"]),
    ],
)  # fmt: skip
def test_what_a_run_is_too_short_for_is_told(steps, warmup, decay, told):
    config = Config.model_validate(
        {
            "train": {"steps": steps, "ema_decay": decay},
            "optimizer": {"name": "adamw", "warmup_steps": warmup},
        }
    )
    assert list(warnings_of(config, warmup_steps(config))) == told
