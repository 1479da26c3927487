"""Trains what a recipe describes, or goes on where its workdir stands.

python train.py --config=configs/NAME.py --workdir=DIR [--config.section.field=value ...]
python train.py --config=configs/NAME.py --explain
python train.py --config=configs/NAME.py --show_batch

Read top to bottom: the configuration, the mesh, the data, the state, and the loop.
Exit status: 0 done, 2 a mistake in what was asked, 75 stopped by a signal after saving.
"""

from __future__ import annotations  # What needs JAX is imported where it is used: inside main().

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.explanation import explain
from configs.reading.inputs import check_inputs, check_pretrained, is_hugging_face
from configs.reading.recipes import load_config
from configs.reading.saved import check_workdir, with_workdir_tokenizer, write_config
from configs.schema.config import Config
from configs.schema.rules import resolve_steps
from data.cache import cache_dir
from parallel.environment import explain_environment, keep_compiled, set_environment
from reporting.metric_log import METRICS, read_metrics
from reporting.progress import Progress
from reporting.wandb_log import require_wandb
from reporting.wording import better_step_text, metrics_line
from training.divergence import Diverged, check_skipped, not_finite
from training.stop_signals import StopSignals
from training.workdir import WorkdirLock

if TYPE_CHECKING:
    from data.dataset import Dataset
    from inference.predictors.predictor import Predictor
    from inference.samples import Sample
    from reporting.profiler import Profiler
    from reporting.run_log import RunLog
    from reporting.step_meter import StepMeter
    from training.best_metric import BestMetric
    from training.checkpoints import Checkpoints
    from training.initialize import Pretrained, WarmStart
    from training.program import TrainProgram
    from training.step import TrainState

FLAGS = (
    Flag("config", meaning="the recipe, a file in configs/ or anywhere", required=True),
    Flag("workdir", meaning="the folder of this run: made, or gone on with"),
    Flag("explain", meaning="print every field, its value and where it came from", switch=True),
    Flag("show_batch", meaning="print batch 0 as the model gets it", switch=True),
)
STOPPED_AFTER_SAVING = 75


def main(argv: Sequence[str]) -> int:
    """The whole of a run. Returns the exit status."""
    # ---- Configuration: nothing on disk is touched, and JAX not started, until it is right.
    arguments = parse_command_line(argv, FLAGS)
    recipe = arguments.config, arguments.overrides
    troubles, events = [], []  # What is told once the run has a record.
    here = {"workdir": arguments.workdir, "notify": events.append}
    config = load_config(*recipe, inputs=False, **here)
    if arguments.explain:
        from reporting.explanation import explain_parameters

        parameters = explain_parameters(config)
        print(explain(*recipe, workdir=arguments.workdir))
        print(f"\n{explain_environment(config)}")
        print(f"\n{parameters}")
        return 0
    reading = with_workdir_tokenizer(config, arguments.workdir)
    tuned = set_environment(config)
    if not arguments.show_batch:
        origin = config.train.initialize_from
        begins = check_workdir(config, arguments.workdir, events.append)
        if begins and origin is not None and is_hugging_face(origin):
            from interop.checking import check

            check(origin, config)
        require_wandb(config)
    check_inputs(reading)

    # ---- Mesh.
    import jax

    from data.batches import training_batches
    from data.facts import learning_facts
    from data.preparation import prepare
    from data.show import describe_batch
    from parallel.distributed import is_main_process, start
    from parallel.mesh import make_mesh
    from parallel.onednn import choose_products
    from reporting.data_diagnosis import check_best_metric, check_data
    from training.attention import working_attention
    from training.program import build_program
    from training.restore import previous_manifest
    from training.schedules import warmup_steps

    start()
    keep_compiled(cache_dir(config.data))
    mesh = make_mesh(config)
    if mesh.size < jax.device_count():
        notify(f"the mesh takes {mesh.size} of {jax.device_count()} devices")
    choose_products(config, mesh)
    progress = Progress(shown=is_main_process())
    attention = working_attention(config, mesh, troubles.append)

    # ---- Data.
    lines = {"notify": troubles.append, "inform": events.append}
    dataset = prepare(reading.data, progress=progress.preparation, **lines)
    if arguments.show_batch:
        for line in (*troubles, *events):
            notify(line)
        batches = training_batches(config, dataset, rows=None)
        origins = batches.origins(0) if dataset.splits["train"].parts else ()
        print(describe_batch(batches[0], dataset, origins))
        return 0
    workdir = Path(arguments.workdir)
    check_data(config, workdir, lambda: learning_facts(dataset), troubles.append)
    check_best_metric(config, workdir, dataset.splits.get("validation"), troubles.append)
    config = resolve_steps(config, dataset.splits["train"].examples)

    # ---- State, from the newest good checkpoint or fresh; then the loop.
    past = previous_manifest(workdir, config)
    what = {"attention": attention, "warmup": warmup_steps(config, past)}
    program = build_program(config, dataset.spec, mesh, **what)
    warm_start = begin(config, workdir, dataset, program)
    main_process = is_main_process()
    lock = WorkdirLock(workdir, notify) if main_process else contextlib.nullcontext()
    with lock, StopSignals() as signals:
        run = Run.open(config, workdir, dataset, program, progress, tuned, warm_start)
        for line in troubles:
            run.log.warn(line)
        for line in (*events, *warm_start.messages):
            run.log.info(line)
        try:
            return run.go(signals)
        finally:
            run.close()


def begin(config, workdir: Path, dataset: Dataset, program) -> WarmStart:
    """What a new run begins with; nothing where `workdir` has a checkpoint to go on from."""

    from training.checkpoints import finished_steps
    from training.initialize import WarmStart, plan_warm_start

    if finished_steps(workdir / "checkpoints"):
        return WarmStart()
    pretrained = None
    if config.train.initialize_from is not None:
        pretrained = open_pretrained(config, Path(config.train.initialize_from), dataset, program)
    return plan_warm_start(pretrained, config, program)


def open_pretrained(config, source: Path, dataset: Dataset, program) -> Pretrained:
    """The model in the folder `source`: a workdir, or one of Hugging Face."""

    from data.text import check_tokenizer
    from interop import starting
    from training import initialize
    from training.initialize import pretrained_from_arrays

    check_pretrained(config)
    check_tokenizer(dataset, source)
    if not is_hugging_face(source):
        return initialize.open_pretrained(source, config.train.initialize_step, notify)
    separator = None
    if dataset.tokenizer is not None:
        separator = (dataset.tokenizer.separator, dataset.tokenizer.separator_id)
    found = starting.start(
        source, config, dataset.spec, program.model_def.own_params, separator=separator
    )
    return pretrained_from_arrays(
        found.params,
        name=f"the weights of {source}, of Hugging Face",
        metadata={"folder": str(source.absolute())},
        notes=found.notes,
    )


def notify(text: str) -> None:
    """A line on standard error."""
    print(f"train.py: {text}", file=sys.stderr, flush=True)


@dataclass
class Run:
    """One run in one workdir: what the loop and the things it does now and then share."""

    config: Config
    workdir: Path
    dataset: Dataset
    program: TrainProgram
    checkpoints: Checkpoints
    log: RunLog
    progress: Progress
    warm_start: WarmStart
    evaluated: dict[str, float] = field(default_factory=dict)
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    steps: dict[tuple[tuple[int, ...], ...], Any] = field(default_factory=dict)
    predictor: Predictor | None = None
    samples: Sequence[Sample] = ()
    saved_step: int = -1
    last_step: int = 0
    skipped: int = 0

    @classmethod
    def open(cls, config, workdir, dataset, program, progress, tuned, warm_start) -> Run:
        """Opens the checkpoints, and the record of what is told."""

        from data.show import data_table
        from inference.predictors.registry import predictor_class
        from reporting.run_log import RunLog
        from training.best_metric import BestMetric
        from training.checkpoints import Checkpoints

        checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            metric=BestMetric.of(config),
            also_sync=[workdir / METRICS],
        )
        validation = dataset.splits.get("validation")
        metadata = {
            "parameters": program.model_def.parameter_count,
            "tokens_per_example": dataset.tokens_per_example,
            "gzip_bits_per_byte": validation.gzip_bits_per_byte if validation else None,
        }
        log = RunLog(
            config,
            workdir,
            progress,
            metadata=metadata,
            tuned=tuned,
            initialized_from=warm_start.metadata,
            data=data_table(dataset),
        )
        run = cls(config, workdir, dataset, program, checkpoints, log, progress, warm_start)
        run.predictor = predictor_class(config).of(program.model_def, dataset.tokenizer)
        return run

    def go(self, signals: StopSignals) -> int:
        """From the workdir's state to the last step, or to a signal."""

        from parallel.distributed import is_main_process
        from reporting.explanation import warnings_of
        from reporting.profiler import Profiler
        from training.best_metric import evaluations_in
        from training.restore import find_checkpoint

        steps = self.config.train.steps
        found = find_checkpoint(self.workdir, self.log.warn)
        first = found[0] if found else 0
        if first >= steps:
            notify(
                f"{self.workdir} is finished: {first} of {steps} steps are done. To go on, give a "
                f"larger --config.train.{self.config.train.length_field}. Its report is "
                f"{self.workdir / 'report.html'}"
            )
            return 0
        self.evaluations = evaluations_in(found[1]) if found else []
        if why := self.staleness():
            notify(
                f"{self.workdir} ended early, at step {first}: {why}. To go on, give "
                f"a larger --config.train.stop_after_evaluations, or none"
            )
            return 0
        for warning in warnings_of(self.config, self.program.warmup_steps):
            self.log.warn(warning)
        if told := self.metric.not_compared(self.evaluations):
            self.log.warn(told)
        if found and found[1]["data"]["fingerprint"] != self.dataset.fingerprint:
            raise UsageError(
                f"the data changed since checkpoint {first} of {self.workdir}: give the old data, "
                "or another --workdir"
            )
        if is_main_process():
            write_config(self.config, self.workdir)
            if self.dataset.tokenizer is not None:
                self.dataset.tokenizer.save(self.workdir / "tokenizer.json")
            self.log.open(first)
        self.progress.start(total=steps, first_step=first)
        profiler = Profiler(self.config, self.workdir, self.log.warn, done=first)
        try:
            with profiler:
                return self.loop(found, signals, profiler)
        except Diverged as error:
            self.log.warn(str(error))
            pages = {"samples": self.samples, "diagnosis": self.diagnosis()}
            self.log.report("diverged", self.last_step, **pages)
            return 1
        finally:
            self.progress.stop()

    def restore(self, step: int, manifest: dict[str, Any]) -> TrainState:
        """The state of a checkpoint on this run's mesh."""

        from training.checkpoints import restore_state
        from training.schedules import schedule_change

        self.saved_step = step
        self.log.go_on_from(manifest["history"])
        self.log.info(f"going on from checkpoint {step}")
        if change := schedule_change(self.config, manifest, self.program.warmup_steps):
            self.log.warn(change)
        folder = self.workdir / "checkpoints"
        return restore_state(folder, step, manifest, self.program.abstract_state)

    def loop(
        self,
        found: tuple[int, dict[str, Any]] | None,
        signals: StopSignals,
        profiler: Profiler,
    ) -> int:
        """From `found` or nothing to the last step; evaluates, saves and logs when it is time."""

        from data import prefetch
        from data.batches import shapes_of, training_batches
        from data.show import split_rows
        from parallel.distributed import any_process
        from parallel.feeding import batch_crc32, local_rows, put_batch
        from reporting.start_summary import summarize_start
        from reporting.step_meter import StepMeter, count_tokens
        from training.ema_statistics import measure_ema

        first = found[0] if found else 0
        train, batch_size = self.config.train, self.config.data.global_batch_size
        part = local_rows(self.program.batch_sharding, batch_size)
        batches = training_batches(self.config, self.dataset, part)
        example = batches[first]
        if found:
            state = self.restore(*found)
        else:
            state = self.program.initialize(*self.warm_start.load(self.program))
        rows = split_rows(self.dataset, self.config.data)
        rows = summarize_start(self.program, example, self.dataset.splits["train"], rows)
        self.log.start(rows, first_step=first)
        self.compile(example)
        peak = self.program.peak_examples_per_second
        meter = StepMeter(batch_size, peak_examples_per_second=peak)
        ahead = prefetch.stream(batches, first, train.steps, self.config.data.workers)
        stream = meter.waiting_for(ahead)

        for step in range(first + 1, train.steps + 1):
            rows = next(stream)
            train_step = self.steps.get(shapes_of(rows))
            if train_step is None:
                self.read(meter.drain(), meter)
                train_step = self.compile(rows)
                meter.restart_clock()
            batch = put_batch(rows, self.program.batch_sharding, batch_size)
            profiler.begin(step)
            state, metrics = train_step(state, batch)
            profiler.end(step, metrics)
            if train.debug_nans:
                self.hunt_nans(state, batch, step, metrics)
            crc32 = {"batch_crc32": batch_crc32(rows)} if train.log_batch_crc32 else {}
            self.read(meter.push(step, metrics, **count_tokens(rows), **crc32), meter)
            self.checkpoints.check()

            stopped = any_process(signals.received is not None)
            last = step == train.steps
            evaluate = last or step % train.evaluate_every_steps == 0
            if evaluate or stopped or step % self.config.checkpoint.every_steps == 0:
                self.read(meter.drain(), meter)
                with self.progress.working("saving"):
                    state = measure_ema(self.program, state, step, batches.__getitem__)
                    if evaluate:
                        self.evaluate(state, step)
                        last = last or self.staleness() is not None
                    self.check_skipped(ends=last)
                    if stopped or last or self.is_worth_saving(step):
                        self.save(state, step)
                meter.restart_clock()
            if stopped or last:
                break

        profiler.close()
        self.checkpoints.wait()
        if not last:
            stop = f"stopped by {signals.received or 'a signal elsewhere'}"
            self.log.info(f"{stop} after saving step {step}; the same command goes on")
            self.log.report(stop, step, samples=self.samples)
            return STOPPED_AFTER_SAVING
        if step < train.steps:
            self.log.info(f"ended early, at step {step}: {self.staleness()}")
        self.finish(state, step)
        return 0

    def compile(self, rows: Mapping[str, Any]):
        """The train step for batches such as `rows`, when the first of their shape comes: of the
        very first one, before it is consumed."""

        from data.batches import shapes_of

        abstract = self.program.batch_shape(rows, self.config.data.global_batch_size)
        what = f" for shape {len(self.steps) + 1}" if self.steps else ""
        with self.progress.compiling(f"the train step{what}"):
            lowered = self.program.train_step.lower(self.program.abstract_state, abstract)
            train_step = self.steps[shapes_of(rows)] = lowered.compile()
        return train_step

    def hunt_nans(self, state, batch, step: int, metrics: Mapping[str, Any]) -> None:
        """After the first of some steps that are not finite: names the operation that was not."""

        from reporting.nan_hunt import explain_not_finite

        if int(metrics["skipped"]) != 1:
            return
        with self.progress.working(f"looking for what was not finite in step {step}"):
            told = explain_not_finite(self.program.train_step, state.before_skipped, batch)
        self.log.warn(f"step {step} again, one operation at a time: {told}")

    def read(self, ready, meter: StepMeter) -> None:
        """Logs the steps whose metrics have arrived, and ends a run that is poisoned."""
        train = self.config.train
        for step, metrics in ready:
            self.last_step = step
            skipped = self.skipped = int(metrics.pop("skipped"))
            metrics.pop("weight")
            if skipped:
                self.log.warn(
                    f"step {step} is passed over: its loss, gradient or update is not finite "
                    f"({skipped} in a row)"
                )
            if step % train.log_every_steps == 0 or step == train.steps or skipped:
                metrics |= meter.take_rates()
                self.log.write(step, metrics)
            self.progress.update(step, metrics)
            self.check_skipped()

    def check_skipped(self, *, ends: bool = False) -> None:
        """Ends a run that diverged: after the last step that was read, or because it `ends`."""
        limit = self.config.train.max_skipped_steps
        check_skipped(self.skipped, self.last_step, limit, self.saved_step, ends=ends)

    def evaluate(self, state, step: int) -> None:
        """Metrics of the validation split into the log, and samples of what the model writes."""

        from training.best_metric import evaluation_record

        self.evaluated = {"step": step}
        if "validation" in self.dataset.splits:
            with self.progress.working("evaluating"):
                most = getattr(self.config.task, "answered_examples", None)
                metrics, self.outputs = self.metrics_of("validation", state, most)
            self.evaluated |= metrics
            self.log.write(step, {f"validation/{name}": m for name, m in metrics.items()})
            self.progress.validation(step, metrics)
            self.evaluations.append(evaluation_record(metrics, self.config))
        self.samples = self.sample(state, step)

    def staleness(self) -> str | None:
        """Why the run ends early, None where it does not."""
        limit = self.config.train.stop_after_evaluations
        return self.metric.staleness(self.evaluations, limit)

    @property
    def metric(self) -> BestMetric:
        """The metric that says which checkpoints are best, and when the run ends early."""
        return self.checkpoints.metric

    def metrics_of(self, split: str, state, most_answers: int | None = None):
        """What evaluate.py would print of this state, with the average where there is one; and
        what a classifier made of each example, or a model that writes of the first ones."""

        from data.evaluation_batches import EvaluationBatches
        from inference.evaluation import evaluate_split
        from parallel.feeding import local_rows
        from reporting.report.predictions import Predictions

        model_def, of = self.program.model_def, self.dataset.splits[split]
        size = model_def.evaluation_batch_size
        rows = local_rows(model_def.batch_sharding, size)
        metrics, outputs = evaluate_split(
            model_def,
            state.eval_params,
            state.eval_statistics,
            partial(EvaluationBatches, of, size, rows),
            coded_bytes=of.coded_bytes,
            keep=Predictions.arrays(),
            batch_predictor=self.predictor.batch_predictor,
            most_answers=most_answers,
        )
        if lost := not_finite(metrics):
            self.log.warn(f"{split}: {', '.join(lost)} not finite: no result, and never best")
        return metrics, outputs

    def sample(self, state, step: int) -> Sequence[Sample]:
        """What the model writes: its first answers, or after each of `task.sample_prompts`; a file
        in samples/ too."""
        import jax

        from inference.samples import first_answers, sample_completions, sample_text

        samples = first_answers(self.outputs)
        if getattr(self.config.task, "sample_prompts", ()) and jax.process_count() == 1:
            module = self.program.model_def.bind(state.eval_params, state.eval_statistics)
            with self.progress.working("writing samples"):
                samples = sample_completions(self.predictor, module, self.config)
        self.log.write_samples(step, [*map(sample_text, samples)])
        return samples

    def is_worth_saving(self, step: int) -> bool:
        """Whether `step` is due for a checkpoint, or the best that was evaluated so far: by what
        the main process finds on disk, where others may not see all yet."""

        from parallel.distributed import any_process, is_main_process

        settings = self.config.checkpoint
        if step % settings.every_steps == 0:
            return True
        if not settings.keep_best or self.evaluated.get("step") != step:
            return False
        self.checkpoints.wait()
        worth = is_main_process() and self.metric.is_better(
            self.evaluated.get(self.metric.name), self.checkpoints.best()
        )
        return any_process(worth)

    def save(self, state, step: int) -> None:
        """Hands the state to the background, once for each step."""

        from reporting.report.machine import versions

        if step == self.saved_step:
            return
        self.checkpoints.save(
            step,
            state,
            axes=self.program.model_def.graph.axes(),
            contents={
                "config": self.config.model_dump(mode="json"),
                "data": self.dataset.metadata,
                "metrics": self.evaluated if self.evaluated.get("step") == step else {},
                "history": {
                    **self.log.history,
                    "evaluations": self.evaluations,
                    "warmup_steps": self.program.warmup_steps,
                },
                "versions": versions(),
            },
        )
        self.saved_step = step

    def finish(self, state, step: int) -> None:
        """What a user wants to know at the end: the figures, samples, where the report is."""

        from inference.samples import sample_text
        from parallel.distributed import is_main_process

        name = "test" if "test" in self.dataset.splits else "validation"
        metrics = {key: value for key, value in self.evaluated.items() if key != "step"}
        pages: dict[str, Any] = {"samples": self.samples}
        if name == "test":
            with self.progress.working("evaluating the test split"):
                metrics, self.outputs = self.metrics_of(name, state)
            pages["test"] = metrics
        if better := self.checkpoints.better_than(step):
            self.log.info(better_step_text(self.metric.name, *better))
        pages |= self.views(name, state)
        pages["diagnosis"] = self.diagnosis(state)
        self.progress.stop()
        if not is_main_process():
            return
        for sample in self.samples:
            print(sample_text(sample))
        if metrics:
            split = self.dataset.splits[name]
            print(metrics_line(name, split.counts(metrics["examples"]), metrics))
            if (gzip := split.gzip_bits_per_byte) and "bits_per_byte" in metrics:
                print(f"gzip -9 on the same files, one by one: bits_per_byte {gzip:.6g}")
        print(f"report: {self.log.report('finished', step, **pages)}")

    def views(self, name: str, state) -> dict[str, Any]:
        """What the report shows of the model: its answers on the split `name`, its inside."""

        from data.show import Examples
        from reporting.report.inside import look_inside
        from reporting.report.predictions import Predictions

        name = name if name in self.dataset.splits else "train"
        examples = Examples(self.dataset, name)
        with self.progress.working("looking at the model"):
            what = (self.program, state.eval_params, state.eval_statistics)
            views = look_inside(*what, examples)
        if "prediction" in self.outputs:
            classes = self.dataset.spec.classes
            views["predictions"] = Predictions.of(self.outputs, name, classes)
            views["example"] = examples
        return views

    def diagnosis(self, state=None) -> list[str]:
        """What stands out in the run, a line each."""

        from data.batches import training_batches
        from data.facts import learning_facts
        from reporting.activity import diagnose_run

        with self.progress.working("looking for what went wrong"):
            return diagnose_run(
                self.program,
                state,
                training_batches(self.config, self.dataset, rows=None).__getitem__,
                metrics=read_metrics(self.workdir),
                data_facts=learning_facts(self.dataset),
                begun_elsewhere=self.log.history["initialized_from"] is not None,
            )

    def close(self) -> None:
        """Waits for the disk."""
        self.checkpoints.close()
        self.log.close()


if __name__ == "__main__":
    run_verb(main)
