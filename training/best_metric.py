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
"""One validation as manifests hold it: its `metrics`, and the settings it was `measured_by`."""


def evaluation_record(metrics: Mapping[str, float], config: Config) -> dict[str, Any]:
    """Return the record of one validation of a run of `config`, as JSON."""
    return {"metrics": dict(metrics), "measured_by": config.task.measured_by}


def evaluation_in(manifest: Mapping[str, Any]) -> Evaluation:
    """Return the validation at the step of a manifest; its `metrics` are empty if there was
    none."""
    measured_by = parse_stored_task(manifest["config"]["task"]).measured_by
    return {"metrics": manifest["metrics"], "measured_by": measured_by}


def evaluations_in(manifest: Mapping[str, Any]) -> list[Evaluation]:
    """Return all validations of the run up to the step of a manifest, oldest first."""
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

    measured_by: the settings, by field, that influence which texts the model writes, such as the
    beam size; empty for a metric that is not computed from written texts.
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
        """Return the same metric, as measured with the settings of the validation `one`."""
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
        """Return whether `value` is better than `than`. A value that is None or not finite never
        is; any finite value is better than None."""
        if value is None or not math.isfinite(value):
            return False
        return than is None or (value > than if self.higher_is_better else value < than)

    def best(self, values: Sequence[float | None]) -> float | None:
        """Return the best of the values, None if none is finite."""
        best = None
        for value in values:
            best = value if self.is_better(value, best) else best
        return best

    def staleness(self, evaluations: Sequence[Evaluation], limit: int | None) -> str | None:
        """Return why to end the run early: a message if the last `limit` comparable validations
        were no better than the earlier ones. None if they were better, or there are not more than
        `limit`."""
        values = [self.value(one) for one in evaluations if self.is_known(one)]
        if limit is None or len(values) <= limit:
            return None
        if self.is_better(self.best(values[-limit:]), self.best(values[:-limit])):
            return None
        return f"{limit} evaluations without a better {self.name} (train.stop_after_evaluations)"

    def not_compared(self, evaluations: Sequence[Evaluation]) -> str | None:
        """Return a message that says how many earlier validations can't be compared with the coming
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
