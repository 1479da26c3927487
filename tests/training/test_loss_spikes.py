"""A spike is several losses in a row far above the usual ones; the batches that led to it are
skipped, whoever reads the record."""

import json
import math

import numpy as np
import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.train import LossSpikes
from training.divergence import Diverged
from training.loss_spikes import FEWEST, RECORD, LossSpike, SkippedWindow, SpikeWatch

SETTINGS = LossSpikes(skip_batches=20, steps=3, threshold=8.0, max_rollbacks=2)


def watch_in(workdir, settings: LossSpikes = SETTINGS, manifest=None) -> SpikeWatch:
    watch = SpikeWatch(settings, workdir)
    watch.go_on_from(manifest)
    return watch


def feed(watch: SpikeWatch, losses, *, first: int = 1, saved=(0,)) -> list[str]:
    """Gives the losses of the steps from `first` on. Returns the warnings."""

    def newest(wanted: int, latest: int) -> int | None:
        known = [step for step in saved if step <= latest]
        return max([step for step in known if step <= wanted] or known, default=None)

    warnings = []
    for step, loss in enumerate(losses, first):
        watch.watch(step, float(loss), newest, warnings.append)
    return warnings


def usual(count: int, *, seed: int = 0) -> np.ndarray:
    """The losses of a run that learns: they fall, with noise."""
    noise = np.random.default_rng(seed).normal(0, 0.05, count)
    return 2 + 2 * np.exp(-np.arange(count) / 50) + noise


def test_a_run_that_learns_has_no_spike(tmp_path):
    for seed in range(5):
        assert feed(watch_in(tmp_path), usual(2000, seed=seed)) == []


def test_single_high_losses_are_none_and_three_in_a_row_are_one(tmp_path):
    watch = watch_in(tmp_path)
    losses = usual(100)
    losses[[40, 50, 51, 60, 62, 64]] = 9.0
    feed(watch, losses)
    with pytest.raises(LossSpike, match=r"spiked: 9 at step 103; its median before was 2\.\d+"):
        feed(watch, [9.0] * 3, first=101)


def test_losses_that_are_not_finite_are_high(tmp_path):
    watch = watch_in(tmp_path)
    feed(watch, [math.nan, *usual(50)])
    with pytest.raises(LossSpike, match="spiked: nan at step 53"):
        feed(watch, [math.inf, -math.inf, math.nan], first=51)


def test_equal_losses_have_a_spread_of_a_hundredth(tmp_path):
    watch = watch_in(tmp_path)
    feed(watch, [2.0] * 50 + [2.15] * 10)
    with pytest.raises(LossSpike):
        feed(watch, [2.17] * 3, first=61)


def test_before_there_are_a_few_losses_nothing_is_one(tmp_path):
    assert feed(watch_in(tmp_path), [1.0] * (FEWEST - 4) + [9.0] * 4) == []


@pytest.mark.parametrize(
    ("saved", "window"),
    [
        ((0, 50, 75, 90), SkippedWindow(checkpoint=75, first=84, last=103)),
        ((0, 90, 100), SkippedWindow(checkpoint=0, first=84, last=103)),
        ((90, 100), SkippedWindow(checkpoint=100, first=101, last=103)),
        ((100, 101, 102), SkippedWindow(checkpoint=100, first=101, last=103)),
    ],
)
def test_the_run_goes_back_to_before_the_window_or_at_least_before_the_spike(
    tmp_path, saved, window
):
    watch = watch_in(tmp_path)
    feed(watch, usual(100))
    with pytest.raises(LossSpike) as raised:
        feed(watch, [9.0] * 3, first=101, saved=saved)
    assert raised.value.window == window


def test_without_an_earlier_checkpoint_it_says_so_and_looks_anew(tmp_path):
    watch = watch_in(tmp_path)
    feed(watch, usual(100))
    (warning,) = feed(watch, [9.0] * 30, first=101, saved=())
    assert "there is no checkpoint from before it" in warning
    with pytest.raises(LossSpike):
        feed(watch, [30.0] * 3, first=131)


@pytest.mark.parametrize("killed", [0, 20, 101, 102])
def test_a_restart_at_any_step_changes_nothing(tmp_path, killed):
    losses = [*usual(100), 9.0, 9.0, 9.0]
    watch = watch_in(tmp_path)
    feed(watch, losses[:killed])
    history = json.loads(json.dumps(watch.history))
    again = watch_in(tmp_path, manifest={"history": history})
    with pytest.raises(LossSpike) as raised:
        feed(again, losses[killed:], first=killed + 1)
    assert raised.value.window == SkippedWindow(checkpoint=0, first=84, last=103)


def test_the_record_says_what_is_skipped_and_bounds_the_rollbacks(tmp_path):
    watch = watch_in(tmp_path)
    watch.record(SkippedWindow(checkpoint=9, first=11, last=14))
    watch = watch_in(tmp_path)
    watch.record(SkippedWindow(checkpoint=20, first=30, last=30))
    manifest = {"history": watch.history}
    for again in (watch_in(tmp_path), watch_in(tmp_path / "copy", manifest=manifest)):
        assert [step for step in range(40) if again.skips(step)] == [11, 12, 13, 14, 30]
        feed(again, usual(100))
        with pytest.raises(Diverged, match=r"went back 2 times before .*max_rollbacks"):
            feed(again, [9.0] * 3, first=101)
    off = watch_in(tmp_path, LossSpikes())
    assert off.skips(12) and feed(off, [*usual(50), *[90.0] * 50]) == []


def test_off_it_leaves_no_trace(tmp_path):
    watch = watch_in(tmp_path, LossSpikes())
    feed(watch, [*usual(50), *[90.0] * 50])
    assert watch.history == {}
    assert not (tmp_path / RECORD).exists()


def test_a_damaged_record_is_named(tmp_path):
    for text in ("", "{}", '{"windows": [{"first": 3}]}', '{"windows": 3}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(UsageError, match=rf"{RECORD} is damaged"):
            watch_in(tmp_path)


def test_a_window_shorter_than_a_spike_is_refused():
    with pytest.raises(UsageError, match=r"skip_batches=2 is less than .*steps=3"):
        load_config("configs/digits_cnn.py", {"train.loss_spikes.skip_batches": "2"})
