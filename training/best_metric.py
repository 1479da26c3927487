"""The metric that says which checkpoints are best, and when a run ends early.

A value carries the settings that measured it; what was measured otherwise is not compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from configs.schema.config import Config
from configs.schema.task import parse_stored_task
from tasks.registry import TASKS

Evaluation = Mapping[str, Any]
"""One validation as manifests carry it: its `metrics`, and what they are `measured_by`."""


def evaluation_record(metrics: Mapping[str, float], config: Config) -> dict[str, Any]:
    """Return the record of a validation of a run of `config`, as JSON."""
    return {"metrics": dict(metrics), "measured_by": config.task.measured_by}


def evaluation_in(manifest: Mapping[str, Any]) -> Evaluation:
    """Return the validation at the step of a manifest; without `metrics` where there was none."""
    measured_by = parse_stored_task(manifest["config"]["task"]).measured_by
    return {"metrics": manifest["metrics"], "measured_by": measured_by}


def evaluations_in(manifest: Mapping[str, Any]) -> list[Evaluation]:
    """Return all validations of the run up to the step of a manifest, the oldest first."""
    history = manifest["history"]
    if "evaluations" in history:
        return list(history["evaluations"])
    # Earlier manifests have the bare values of the metric that was best then.
    name = manifest["config"]["checkpoint"]["best_metric"]
    measured_by = evaluation_in(manifest)["measured_by"]
    values = history.get("course", ())
    return [{"metrics": {name: value}, "measured_by": measured_by} for value in values]


@dataclass(frozen=True)
class BestMetric:
    """A metric of a task.

    measured_by: field and value of the settings that decide what the model writes, such as the
    size of a beam; empty for a metric that is not of written answers.
    """

    name: str
    higher_is_better: bool
    measured_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return `checkpoint.best_metric`, as a run of `config` measures it."""
        name, task = config.checkpoint.best_metric, config.task
        higher = name in TASKS[task.name].higher_is_better
        return cls(name, higher, task.measured_by if name in task.text_metrics else {})

    def measured_as(self, one: Evaluation) -> Self:
        """Return the same metric by the settings of that validation."""
        return replace(
            self, measured_by={name: one["measured_by"].get(name) for name in self.measured_by}
        )

    def is_known(self, one: Evaluation) -> bool:
        """Whether the validation has this metric, measured as this one is."""
        there = one["measured_by"]
        alike = all(there.get(name) == value for name, value in self.measured_by.items())
        return self.name in one["metrics"] and alike

    def value(self, one: Evaluation) -> float | None:
        """Return the metric's value in a validation; None where it is not known or not finite."""
        value = one["metrics"][self.name] if self.is_known(one) else None
        return value if value is not None and math.isfinite(value) else None

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether `value` beats `than`. What is None or not finite beats nothing."""
        if value is None or not math.isfinite(value):
            return False
        return than is None or (value > than if self.higher_is_better else value < than)

    def best(self, values: Sequence[float | None]) -> float | None:
        """Return the best of the values, None where there is none."""
        found = None
        for value in values:
            found = value if self.is_better(value, found) else found
        return found

    def staleness(self, evaluations: Sequence[Evaluation], limit: int | None) -> str | None:
        """Say that the last `limit` validations were no better than those before them, among those
        that can be compared; None where they were, or there are not as many."""
        values = [self.value(one) for one in evaluations if self.is_known(one)]
        if limit is None or len(values) <= limit:
            return None
        if self.is_better(self.best(values[-limit:]), self.best(values[:-limit])):
            return None
        return f"{limit} evaluations without a better {self.name} (train.stop_after_evaluations)"

    def not_compared(self, evaluations: Sequence[Evaluation]) -> str | None:
        """Say how many validations can't be compared with those to come; None where all can."""
        count = sum(not self.is_known(one) for one in evaluations)
        if not count:
            return None
        settings = ", ".join(f"task.{name}={value}" for name, value in self.measured_by.items())
        by = f" by {settings}" if settings else ""
        return (
            f"{count} of {len(evaluations)} earlier evaluations did not measure {self.name}{by}: "
            "they are not compared, neither for the best checkpoint nor to end the run early"
        )
