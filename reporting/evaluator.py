"""Evaluates a model during training: metrics and samples for the log and the report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from reporting.activity import diagnose_run
from reporting.progress import Progress
from reporting.report.inside import ExampleViewer, look_inside
from reporting.report.predictions import Predictions
from reporting.run_log import RunLog
from reporting.samples import Sample, first_answers, sample_text
from reporting.wording import metrics_line
from training.best_metric import BestMetric, Evaluation, evaluation_record
from training.divergence import not_finite
from training.program import TrainProgram
from training.step import TrainState


class Evaluator:
    """Evaluates a run during training, and keeps the results for its checkpoints and its report.

    splits: the splits of the data by name.
    classes: names of the classes; None without classes.
    measure_split: the function of evaluate.py.
    sample(module): returns texts that the model generates after the prompts of its task; None for a
        task without prompts.
    examples(name): returns the examples of a split.
    batch(k): returns the whole training batch k.
    data_facts(): returns the fields of `findings.Facts` that describe the data.

    `history` holds all evaluations of the run, oldest first; `samples` holds the last samples.
    """

    def __init__(
        self,
        program: TrainProgram,
        log: RunLog,
        progress: Progress,
        *,
        splits: Mapping[str, Any],
        classes: Sequence[str] | None,
        measure_split: Callable[..., tuple[dict[str, float], dict[str, Any]]],
        sample: Callable[[nnx.Module], Sequence[Sample]] | None,
        examples: Callable[[str], ExampleViewer],
        batch: Callable[[int], Mapping[str, np.ndarray]],
        data_facts: Callable[[], Mapping[str, Any]],
    ):
        self._program, self._log, self._progress = program, log, progress
        self._metric = BestMetric.of(program.config)
        self._splits, self._classes = splits, classes
        self._measure_split, self._sample, self._examples = measure_split, sample, examples
        self._batch, self._data_facts = batch, data_facts
        self._metrics: dict[str, float] = {}
        self._outputs: Mapping[str, Any] = {}
        self._step = -1
        self.history: list[Evaluation] = []
        self.samples: Sequence[Sample] = ()

    def evaluate(self, state: TrainState, step: int) -> None:
        """Evaluate the validation split, let the model generate samples, and log both."""
        self._step, self._metrics = step, {}
        config = self._program.config
        if "validation" in self._splits:
            with self._progress.working("evaluating"):
                most = getattr(config.task, "answered_examples", None)
                self._metrics = self._measure("validation", state, most)
            named = {f"validation/{name}": value for name, value in self._metrics.items()}
            self._log.write(step, named)
            self._progress.validation(step, self._metrics)
            self.history.append(evaluation_record(self._metrics, config))
        if self._sample is None:
            self.samples = first_answers(self._outputs)
        else:
            module = self._program.model_def.bind(state.eval_params, state.eval_statistics)
            with self._progress.working("writing samples"):
                self.samples = self._sample(module)
        self._log.write_samples(step, [*map(sample_text, self.samples)])

    def metrics_at(self, step: int) -> dict[str, float]:
        """Return the step and metrics of the last evaluation if it was at `step`, else {}."""
        return {"step": step, **self._metrics} if step == self._step else {}

    def staleness(self) -> str | None:
        """Return the reason to stop the run early; None to continue."""
        limit = self._program.config.train.stop_after_evaluations
        return self._metric.staleness(self.history, limit)

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Evaluate the test split if there is one, look inside the model, and diagnose the run.
        Return the results as keyword arguments of `RunLog.report`."""
        pages: dict[str, Any] = {"samples": self.samples}
        name = next((one for one in ("test", "validation") if one in self._splits), "train")
        if name == "test":
            with self._progress.working("evaluating the test split"):
                pages["test"] = self._metrics = self._measure(name, state)
        examples = self._examples(name)
        with self._progress.working("looking at the model"):
            weights = state.eval_params, state.eval_statistics
            pages |= look_inside(self._program, *weights, examples)
        if "prediction" in self._outputs and self._classes is not None:
            pages["predictions"] = Predictions.of(self._outputs, name, self._classes)
            pages["example"] = examples
        return pages | {"diagnosis": self.diagnose(state)}

    def diagnose(self, state: TrainState | None = None) -> list[str]:
        """Return the findings of the diagnosis, one line each. Without `state`, the model is not
        examined."""
        with self._progress.working("looking for what went wrong"):
            return diagnose_run(
                self._program,
                state,
                self._batch,
                metrics=self._log.read_metrics(),
                data_facts=self._data_facts(),
                begun_elsewhere=self._log.history["initialized_from"] is not None,
            )

    def print_result(self) -> None:
        """Print the last samples and the metrics of the test split; without a test split, the
        metrics of validation."""
        for sample in self.samples:
            print(sample_text(sample))
        if not self._metrics:
            return
        name = "test" if "test" in self._splits else "validation"
        split = self._splits[name]
        print(metrics_line(name, split.counts(self._metrics["examples"]), self._metrics))
        if (gzip := split.gzip_bits_per_byte) and "bits_per_byte" in self._metrics:
            print(f"gzip -9 on the same files, one by one: bits_per_byte {gzip:.6g}")

    def _measure(self, name: str, state: TrainState, most: int | None = None) -> dict[str, float]:
        """Measure a split with the averaged weights or, if the run has no averages, the raw ones.
        Return its metrics, and keep its outputs. most: number of examples to answer in text; None
        for all."""
        metrics, self._outputs = self._measure_split(
            self._program.model_def,
            state.eval_params,
            state.eval_statistics,
            self._splits[name],
            keep=Predictions.arrays(),
            most_answers=most,
        )
        if lost := not_finite(metrics):
            self._log.warn(f"{name}: {', '.join(lost)} not finite: no result, and never best")
        return metrics
