"""The metric that ranks checkpoints and can end a run early.

Each value is stored with the settings that it was measured with. Only values measured with the same
settings are compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from configs.schema.config import Config
from configs.schema.task import parse_stored_task
from tasks.registry import TASKS

Evaluation = Mapping[str, Any]
"""One validation as stored in manifests: `metrics`, and `measured_by`, the settings used for it."""


def evaluation_record(metrics: Mapping[str, float], config: Config) -> dict[str, Any]:
    """Return a validation as a JSON object: its metrics, and the settings they were measured
    with."""
    return {"metrics": dict(metrics), "measured_by": config.task.measured_by}


def evaluation_in(manifest: Mapping[str, Any]) -> Evaluation:
    """Return the validation stored in a checkpoint's manifest. Its `metrics` are empty if the step
    was not evaluated."""
    measured_by = parse_stored_task(manifest["config"]["task"]).measured_by
    return {"metrics": manifest["metrics"], "measured_by": measured_by}


def evaluations_in(manifest: Mapping[str, Any]) -> list[Evaluation]:
    """Return all validations of the run up to the manifest's step, oldest first."""
    history = manifest["history"]
    if "evaluations" in history:
        return list(history["evaluations"])
    # Older manifests have only the values of the metric that ranked the checkpoints then.
    name = manifest["config"]["checkpoint"]["best_metric"]
    measured_by = evaluation_in(manifest)["measured_by"]
    values = history.get("course", ())
    return [{"metrics": {name: value}, "measured_by": measured_by} for value in values]


@dataclass(frozen=True)
class BestMetric:
    """A metric of a task, and how it is measured.

    measured_by: the settings that influence the generated texts, such as the beam size, by field
    name; empty for a metric that does not depend on generated texts.
    """

    name: str
    higher_is_better: bool
    measured_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the metric `checkpoint.best_metric`, measured with the settings of `config`."""
        name, task = config.checkpoint.best_metric, config.task
        higher = name in TASKS[task.name].higher_is_better
        return cls(name, higher, task.measured_by if name in task.text_metrics else {})

    def measured_as(self, one: Evaluation) -> Self:
        """Return the same metric, measured with the settings of the validation `one`."""
        return replace(
            self, measured_by={name: one["measured_by"].get(name) for name in self.measured_by}
        )

    def is_known(self, one: Evaluation) -> bool:
        """Return whether the validation `one` has this metric, measured with the same settings."""
        settings = one["measured_by"]
        same = all(settings.get(name) == value for name, value in self.measured_by.items())
        return self.name in one["metrics"] and same

    def value(self, one: Evaluation) -> float | None:
        """Return the metric's value in the validation `one`; None if it is unknown or not
        finite."""
        value = one["metrics"][self.name] if self.is_known(one) else None
        return value if value is not None and math.isfinite(value) else None

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Return whether `value` is better than `than`. None and non-finite values are never
        better; any finite value is better than None."""
        if value is None or not math.isfinite(value):
            return False
        return than is None or (value > than if self.higher_is_better else value < than)

    def best(self, values: Sequence[float | None]) -> float | None:
        """Return the best of the values; None if none is finite."""
        best = None
        for value in values:
            best = value if self.is_better(value, best) else best
        return best

    def staleness(self, evaluations: Sequence[Evaluation], limit: int | None) -> str | None:
        """Return a message if the run should end early, else None.

        A run should end if none of the last `limit` comparable validations is better than all
        earlier ones.

        limit: a number of validations; None never ends a run early.
        """
        values = [self.value(one) for one in evaluations if self.is_known(one)]
        if limit is None or len(values) <= limit:
            return None
        if self.is_better(self.best(values[-limit:]), self.best(values[:-limit])):
            return None
        return f"{limit} evaluations without a better {self.name} (train.stop_after_evaluations)"

    def not_compared(self, evaluations: Sequence[Evaluation]) -> str | None:
        """Return a message with the number of earlier validations that can't be compared with new
        ones; None if all can."""
        count = sum(not self.is_known(one) for one in evaluations)
        if not count:
            return None
        settings = ", ".join(f"task.{name}={value}" for name, value in self.measured_by.items())
        by = f" by {settings}" if settings else ""
        return (
            f"{count} of {len(evaluations)} earlier evaluations did not measure {self.name}{by}: "
            "they are not compared, neither for the best checkpoint nor to end the run early"
        )
