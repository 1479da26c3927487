"""Values of a metric are compared only where they were measured alike."""

import math
from typing import Any

import pytest

from configs.reading.recipes import load_config
from configs.schema.config import Config
from training.best_metric import BestMetric, evaluation_record, evaluations_in

LOSS = BestMetric("loss", higher_is_better=False)


def translation(**task: Any) -> Config:
    given = {"name": "sequence_to_sequence"} | task
    return Config.model_validate(
        {
            "task": given,
            "data": {"source": "dates"},
            "model": {"architecture": "encoder_decoder"},
            "checkpoint": {"best_metric": "bleu"},
        }
    )


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"metrics": {"loss": value}, "measured_by": {}} for value in values]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_is_not_finite_is_never_better_and_ends_no_run(higher_is_better):
    metric = BestMetric("loss", higher_is_better)
    better = 3.0 if higher_is_better else 1.0
    assert metric.is_better(better, 2.0) and not metric.is_better(2.0, better)
    for bad in (math.nan, math.inf, -math.inf, None):
        assert not metric.is_better(bad, 2.0) and not metric.is_better(bad, None)
        assert metric.staleness(losses(bad, 2.0, better), 1) is None
        assert metric.staleness(losses(bad, 2.0, bad), 1) is not None
        assert metric.best([bad, 2.0, bad]) == 2.0


def test_a_run_without_a_better_value_is_stale_after_as_many_as_it_may_have():
    course = losses(3.0, 2.0, 2.5, 2.1)
    assert LOSS.staleness(course, 2) == (
        "2 evaluations without a better loss (train.stop_after_evaluations)"
    )
    assert LOSS.staleness(course, 3) is None
    assert LOSS.staleness(course, None) is None


def test_another_metric_looks_at_its_own_values_of_before():
    course = [
        {"metrics": {"loss": loss, "accuracy": accuracy}, "measured_by": {}}
        for loss, accuracy in ((1.0, 0.4), (1.2, 0.5), (1.4, 0.6))
    ]
    assert LOSS.staleness(course, 2) is not None
    assert BestMetric("accuracy", higher_is_better=True).staleness(course, 2) is None
    assert BestMetric("accuracy", higher_is_better=True).not_compared(course) is None


def test_values_of_earlier_manifests_are_those_of_the_metric_that_was_best_then():
    manifest = {
        "config": {
            "task": {"name": "classification"},
            "checkpoint": {"best_metric": "loss"},
        },
        "history": {"course": [0.4, 0.3, 0.2]},
    }
    manifest["metrics"] = {}
    course = evaluations_in(manifest)
    assert [LOSS.value(one) for one in course] == [0.4, 0.3, 0.2]
    accuracy = BestMetric("accuracy", higher_is_better=True)
    better = [*course, {"metrics": {"accuracy": 0.1}, "measured_by": {}}]
    assert accuracy.staleness(better, 1) is None
    assert "3 of 4 earlier evaluations did not measure accuracy:" in accuracy.not_compared(better)


@pytest.mark.parametrize(
    "changed",
    [
        {"beam_size": 1},
        {"length_penalty": 0.0},
        {"answer_length_ratio": 3.0},
        {"answered_examples": 50},
    ],
)
def test_answers_of_another_search_or_of_other_examples_are_not_compared(changed):
    before, now = translation(), translation(**changed)
    course = [evaluation_record({"loss": 1.0, "bleu": 30.0}, before)]
    bleu = BestMetric.of(now)
    assert bleu.value(course[0]) is None
    assert BestMetric.of(before).value(course[0]) == 30.0
    assert LOSS.value(course[0]) == 1.0  # of true answers: no search has to do with it
    (name, value), *_ = changed.items()
    assert f"task.{name}={value}" in bleu.not_compared(course)
    assert bleu.measured_as(course[0]).value(course[0]) == 30.0


def test_a_setting_without_effect_makes_no_other_measure():
    metrics = {"loss": 1.0, "wer": 0.5}
    before = load_config("configs/tones_ctc.py", {"checkpoint.best_metric": "wer"})
    assert before.task.decoder == "greedy"
    wider = before.model_copy(update={"task": before.task.model_copy(update={"beam_size": 16})})
    assert BestMetric.of(wider).value(evaluation_record(metrics, before)) == 0.5
