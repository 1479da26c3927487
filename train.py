"""Trains the model of a recipe, or resumes the run in its workdir.

python train.py --config=configs/NAME.py --workdir=DIR [--config.section.field=value ...]
python train.py --config=configs/NAME.py --explain
python train.py --config=configs/NAME.py --show_batch

Read this file from top to bottom: configuration, mesh, data, state, and the training loop.

Exit status: 0 done, 1 diverged or not saved, 2 a usage error, 14 nothing moved for
`train.hang_seconds` or a process did not come, 75 stopped by a signal after saving, 76 wrong values
were found.
"""

from __future__ import annotations  # Modules that need JAX are imported within functions.

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.inputs import check_inputs, check_pretrained, is_exported, is_hugging_face
from configs.reading.mirrors import check_mirror, place_of_workdir, with_mirror
from configs.reading.recipes import load_config
from configs.reading.saved import check_workdir, with_workdir_tokenizer, write_config
from configs.schema.rules import resolve_steps
from data.cache import cache_dir
from parallel.environment import enable_compilation_cache, set_environment
from parallel.rendezvous import Absent
from reporting.metric_log import METRICS
from reporting.progress import Progress
from reporting.wandb_log import require_wandb
from reporting.wording import better_step_text
from training.divergence import Diverged
from training.stop_signals import Stopped, StopSignals
from training.watchdog import STALLED, Watchdog
from training.workdir import WorkdirLock

if TYPE_CHECKING:
    from data.dataset import Dataset
    from reporting.profiler import Profiler
    from training.initialize import WarmStart
    from training.mirror import Mirror
    from training.program import TrainProgram
    from training.step import TrainState

FLAGS = (
    Flag("config", meaning="the recipe, a file in configs/ or anywhere", required=True),
    Flag("workdir", meaning="the folder of this run, or gs://: made, or gone on with"),
    Flag("explain", meaning="print every field, its value and where it came from", switch=True),
    Flag("show_batch", meaning="print batch 0 as the model gets it", switch=True),
)
STOPPED_AFTER_SAVING = 75
Manifest = Mapping[str, Any]  # of a checkpoint


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`. Return the exit status."""
    with StopSignals(promise="stopping before the first step") as signals:
        try:
            return train(argv, signals)
        except Absent as error:
            from parallel.distributed import leave

            notify(str(error))
            return leave(STALLED)


def train(argv: Sequence[str], signals: StopSignals) -> int:
    """Run the command line `argv` to its end or to a signal. Return the exit status."""
    # ---- Configuration: until it is valid, no file is written and JAX is not started.
    arguments = parse_command_line(argv, FLAGS)
    recipe = arguments.config, arguments.overrides
    warnings, events = list[str](), list[str]()  # Kept until the run's log is open.
    folder, url = place_of_workdir(arguments.workdir)
    config = load_config(*recipe, inputs=False, workdir=folder, notify=events.append)
    if url is not None:
        config = with_mirror(config, url)
    if arguments.explain:
        from reporting.explanation import print_explanation

        print_explanation(config, *recipe, folder)
        return 0
    with_tokenizer = with_workdir_tokenizer(config, folder)
    tuned = set_environment(config)
    if not arguments.show_batch:
        is_new = check_workdir(config, folder, events.append)
        check_mirror(config, folder)
        origin = config.train.initialize_from
        if is_new and origin is not None and is_hugging_face(origin):
            from interop.checking import check_recipe

            check_recipe(origin, config)
        require_wandb(config)
    check_inputs(with_tokenizer)

    # ---- Mesh.
    import jax

    from data.batches import training_batches
    from data.preparation import prepare
    from data.show import describe_batch
    from data.statistics import data_statistics
    from parallel.distributed import any_process, initialize_distributed, is_main_process
    from parallel.exchange import agree, working
    from parallel.mesh import make_mesh
    from parallel.products import select_products
    from reporting.data_diagnosis import check_best_metric, check_data
    from training.attention import working_attention
    from training.mirror import open_mirror
    from training.program import build_program
    from training.restore import previous_manifest
    from training.schedules import warmup_steps

    if not initialize_distributed(
        seconds=config.train.hang_seconds, is_stopped=signals.is_received, notify=notify
    ):
        return stopped_early(signals)
    enable_compilation_cache(cache_dir(config.data))
    mesh = make_mesh(config)
    if mesh.size < jax.device_count():
        notify(f"the mesh takes {mesh.size} of {jax.device_count()} devices")
    progress = Progress(shown=is_main_process())
    attention = working_attention(config, mesh, warnings.append)

    # ---- Data.
    lines = {"warn": warnings.append, "inform": events.append}
    with contextlib.suppress(Stopped), signals.interrupting(), working() as noticed:
        dataset = prepare(with_tokenizer.data, progress=noticed(progress.preparation), **lines)
    if agree("prepared", signals.is_received(), any):
        return stopped_early(signals)
    if arguments.show_batch:
        for line in (*warnings, *events):
            notify(line)
        batches = training_batches(config, dataset, rows=None)
        origins = batches.origins(0) if dataset.splits["train"].parts else ()
        print(describe_batch(batches[0], dataset, origins))
        return 0

    # ---- The mirror of the workdir, if it has one: the newest checkpoint may be there.
    assert folder is not None  # or `check_workdir` had refused it
    workdir = Path(folder)
    mirror = open_mirror(config, workdir, notify, signals.is_received, is_workdir=url is not None)
    with mirror or contextlib.nullcontext():
        if any_process(signals.is_received()):
            return stopped_early(signals)

        # ---- State, from the newest good checkpoint or fresh; then the loop.
        check_data(config, workdir, lambda: data_statistics(dataset), warnings.append)
        check_best_metric(config, workdir, dataset.splits.get("validation"), warnings.append)
        config = resolve_steps(config, dataset.splits["train"].examples)
        before = previous_manifest(workdir, config)
        select_products(config, mesh, before)
        warmup = warmup_steps(config, before)
        program = build_program(config, dataset.spec, mesh, attention=attention, warmup=warmup)
        warm_start = make_warm_start(program, workdir, dataset)
        lock = WorkdirLock(workdir, notify) if is_main_process() else contextlib.nullcontext()
        with lock:
            run = Run(program, workdir, dataset, progress, warm_start, tuned, mirror)
            run.log.take(warnings, [*events, *warm_start.messages])
            with run.watchdog, contextlib.closing(run), run.stalls.naming_lost_processes():
                status = run.go(signals)
    return status if mirror is None else mirrored_status(status, mirror)


def notify(text: str) -> None:
    """Print a line on standard error."""
    print(f"train.py: {text}", file=sys.stderr, flush=True)


def mirrored_status(status: int, mirror: Mirror) -> int:
    """Return the exit status of a run: 1 in place of 0 if its mirror lacks something."""
    if mirror.is_complete:
        return status
    notify(f"{mirror.url} lacks a part of the run: the same command copies it")
    return status or 1


def stopped_early(signals: StopSignals) -> int:
    """Say that a signal came before the first step, when there is nothing to save. Return the exit
    status."""
    notify(f"{stop_reason(signals)} before the first step; the same command goes on")
    return STOPPED_AFTER_SAVING


def stop_reason(signals: StopSignals) -> str:
    """Return "stopped by SIGTERM", or another signal, or one to another process."""
    return f"stopped by {signals.received or 'a signal elsewhere'}"


def make_warm_start(program: TrainProgram, workdir: Path, dataset: Dataset) -> WarmStart:
    """Plan how a new run takes over the weights of `train.initialize_from`. A resumed run takes
    none."""
    from data.tokenizer_training import check_tokenizer
    from training import initialize
    from training.checkpoints import finished_steps

    config = program.config
    if finished_steps(workdir / "checkpoints"):
        return initialize.WarmStart()
    if config.train.initialize_from is None:
        return initialize.plan_warm_start(None, config, program)
    source = Path(config.train.initialize_from)
    check_pretrained(config)
    check_tokenizer(dataset, source)
    if is_hugging_face(source):
        from interop.loading import load_weights

        tokenizer = dataset.tokenizer
        separator = None if tokenizer is None else (tokenizer.separator, tokenizer.separator_id)
        model = program.model_def
        shapes = (model.own_params, model.abstract_statistics)
        weights = load_weights(source, config, dataset.spec, *shapes, separator=separator)
        origin = initialize.pretrained_from_arrays(
            weights.params,
            weights.statistics,
            name=f"the weights of {source}, of Hugging Face",
            metadata={"folder": str(source.absolute())},
            notes=weights.messages,
        )
    elif is_exported(source):
        import jax

        from interop.opening import open_model
        from parallel.mesh import flat_mesh

        opened = open_model(source)
        params, statistics = opened.arrays(opened.model_def(flat_mesh(jax.devices()[:1])))
        origin = initialize.pretrained_from_arrays(
            params,
            statistics,
            name=f"the weights of {source}, step {opened.exported.step}",
            metadata={"folder": str(source.absolute()), "step": opened.exported.step},
            config=opened.config,
        )
    else:
        origin = initialize.open_pretrained(source, config.train.initialize_step, notify)
    return initialize.plan_warm_start(origin, config, program)


class Run:
    """One run in one workdir: the training loop and the objects that it uses.

    batches: this process's rows of each training batch. steps: the compiled train steps, by the
    shapes of their batches.
    """

    def __init__(
        self,
        program: TrainProgram,
        workdir: Path,
        dataset: Dataset,
        progress: Progress,
        warm_start: WarmStart,
        tuned: Mapping[str, str],
        mirror: Mirror | None = None,
    ):
        from data.batches import training_batches
        from data.show import data_table
        from evaluate import make_evaluator
        from parallel.feeding import local_rows
        from reporting.run_log import RunLog
        from reporting.stalls import Stalls
        from reporting.step_log import StepLog
        from training.best_metric import BestMetric
        from training.checkpoints import Checkpoints
        from training.corruption import CorruptionChecks
        from training.loss_spikes import SpikeWatch

        config = program.config
        self.config, self.workdir, self.dataset = config, workdir, dataset
        self.program, self.progress, self.warm_start = program, progress, warm_start
        self.mirror = mirror
        validation = dataset.splits.get("validation")
        self.log = RunLog(
            config,
            workdir,
            progress,
            metadata={
                "parameters": program.model_def.parameter_count,
                "tokens_per_example": dataset.tokens_per_example,
                "gzip_bits_per_byte": validation.gzip_bits_per_byte if validation else None,
            },
            tuned=tuned,
            initialized_from=warm_start.metadata,
            data=data_table(dataset),
        )
        self.checkpoints = Checkpoints(
            workdir / "checkpoints",
            every_steps=config.checkpoint.every_steps,
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            metric=BestMetric.of(config),
            also_sync=[workdir / METRICS],
            max_failures=config.checkpoint.max_failed_saves,
            on_saved=self.saved,
            warn=self.log.warn,
        )
        self.stalls = Stalls(
            config.train.hang_seconds,
            "The same command goes on from the last checkpoint, or begins again if there is none",
            notify,
            lambda text: self.log.event("stalled", self.last_step(), text),
        )
        self.watchdog = Watchdog(config.train.hang_seconds, self.stalls.report)
        on_batch = self.watchdog.beat_again
        self.evaluator = make_evaluator(dataset, program, self.log, progress, on_batch)
        self.spikes = SpikeWatch(config.train.loss_spikes, workdir)
        parts = program, self.checkpoints, self.log, progress, self.spikes
        self.new_step_log = functools.partial(StepLog, *parts)
        self.step_log = self.new_step_log()
        self.checks = CorruptionChecks(program)
        rows = local_rows(program.batch_sharding, config.data.global_batch_size)
        self.batches = training_batches(config, dataset, rows)
        self.steps: dict[tuple[tuple[int, ...], ...], Any] = {}

    def go(self, signals: StopSignals) -> int:
        """Train from the newest checkpoint in the workdir, or from step 0, to the last step or a
        signal. Return the exit status."""
        from parallel.distributed import is_main_process
        from reporting.explanation import warnings_of
        from reporting.profiler import Profiler
        from training.best_metric import evaluations_in
        from training.checkpoints import NotSaved
        from training.corruption import CORRUPTED, Corrupted
        from training.loss_spikes import LossSpike
        from training.restore import find_checkpoint
        from training.resume import NotFinite, check_same_data, go_back, why_finished

        self.watchdog.beat("verifying the last checkpoint")
        found = list[str]()

        def warn(text: str) -> None:
            found.append(text)
            self.log.warn(text)

        first, manifest = find_checkpoint(self.workdir, warn) or (0, None)
        if self.mirror is not None:
            self.mirror.begin(lambda step: self.log.event("mirrored", step))
        if manifest is not None:
            self.evaluator.history = evaluations_in(manifest)
        if reason := why_finished(self.config, self.workdir, first, self.evaluator.staleness()):
            notify(reason)
            return 0
        self.log.event("started", first, f"process {os.getpid()} on {socket.gethostname()}")
        for text in found:
            if "is not used" in text:
                self.log.event("fell_back", first, text)
        for warning in warnings_of(self.config, self.program.warmup_steps):
            self.log.warn(warning)
        if message := self.checkpoints.metric.not_compared(self.evaluator.history):
            self.log.warn(message)
        if message := self.checks.compares_little():
            self.log.warn(message)
        if manifest is not None:
            changes = self.dataset.changes_since(manifest["data"])
            check_same_data(first, changes, self.workdir)
        self.spikes.go_on_from(manifest)
        for window in self.spikes.windows:
            self.log.info(f"{window} are skipped: the loss spiked there")
        if is_main_process():
            write_config(self.config, self.workdir)
            if self.dataset.tokenizer is not None:
                self.dataset.tokenizer.save(self.workdir / "tokenizer.json")
            self.log.open(first)
        self.progress.start(total=self.config.train.steps, first_step=first)
        profiler = Profiler(self.config, self.workdir, self.log.warn, done=first)
        try:
            with contextlib.closing(profiler):
                while True:
                    try:
                        return self.loop(manifest, signals, profiler)
                    except (LossSpike, NotFinite) as error:
                        cause = error.with_traceback(None)  # Its frames hold the state.
                    self.watchdog.beat("going back to an earlier checkpoint")
                    parts = self.workdir, self.checkpoints, self.spikes, self.log
                    manifest = go_back(cause, *parts)
                    self.evaluator.history = evaluations_in(manifest)
                    self.step_log = self.new_step_log()
        except Diverged as error:
            self.report_failure("diverged", self.step_log.last_step, error)
            return 1
        except Corrupted as error:
            self.report_failure("corrupted", error.step, error)
            return CORRUPTED
        except NotSaved as error:
            self.log.warn(str(error))
            return 1
        finally:
            self.progress.stop()

    def report_failure(self, status: str, step: int, error: Exception) -> None:
        """Say why the run ends before its last step, and write its report."""
        self.log.event(status, step, str(error))
        self.log.warn(str(error))
        self.watchdog.beat("writing the report")
        samples, lines = self.evaluator.samples, self.evaluator.diagnose()
        self.log.report(status, step, samples=samples, diagnosis=lines)

    def first_state(self, manifest: Manifest | None) -> TrainState:
        """Return the state of the checkpoint of `manifest`, or the initial state if it is None."""
        from training.resume import resumed_state

        if manifest is None:
            self.watchdog.beat("making the initial state")
            return self.program.initialize(*self.warm_start.load(self.program))
        self.watchdog.beat(f"restoring checkpoint {manifest['step']}")
        self.checkpoints.saved_step = manifest["step"]
        if not self.steps:  # After a roll-back, this process has its own history.
            self.log.go_on_from(manifest["step"], manifest["history"])
        return resumed_state(manifest, self.workdir, self.program, self.log.warn)

    def loop(self, manifest: Manifest | None, signals: StopSignals, profiler: Profiler) -> int:
        """Train from the checkpoint of `manifest` (None: from step 0) to the last step or a signal,
        with evaluations, checkpoints and logs when they are due. Return the exit status."""
        from data import prefetch
        from data.batches import shapes_of
        from data.show import split_rows
        from parallel.distributed import any_process
        from parallel.feeding import put_batch
        from reporting.start_summary import summarize_start
        from training.ema_statistics import measure_ema
        from training.resume import skip_batch

        first = 0 if manifest is None else manifest["step"]
        train, batch_size = self.config.train, self.config.data.global_batch_size
        beat = self.watchdog.beat
        beat(f"reading batch {first + 1}")
        example = self.batches[first]
        state = self.first_state(manifest)
        if not self.steps:  # This is no roll-back.
            splits = split_rows(self.dataset, self.config.data)
            summary = summarize_start(self.program, example, self.dataset.splits["train"], splits)
            self.log.start(summary, first_step=first)
            self.compile(example)
        beat("waiting for the other processes")
        if any_process(signals.is_received()):
            self.log.event("signal", first, stop_reason(signals))
            return stopped_early(signals)
        signals.promise = "saving at the end of this step, then stopping"
        workers = self.config.data.workers
        stream = prefetch.stream(self.batches, first, train.steps, workers, self.log.warn)

        for step in range(first + 1, train.steps + 1):
            beat(f"reading batch {step}")
            with self.step_log.waiting():
                rows = next(stream)
            if self.spikes.skips(step):
                state = skip_batch(state, step)
                self.step_log.skip_batch(step)
            else:
                train_step = self.steps.get(shapes_of(rows)) or self.compile(rows)
                beat(f"step {step}")
                batch = put_batch(rows, self.program.batch_sharding, batch_size)
                profiler.begin(step)
                if self.checks.recomputes(step):
                    state, metrics = self.checks.recompute(train_step, state, batch, step)
                else:
                    state, metrics = train_step(state, batch)
                if self.checks.compares(step):
                    self.checks.compare_replicas(state, step)
                profiler.end(step, metrics)
                if train.debug_nans:
                    self.step_log.hunt_nans(step, metrics, state, batch)
                self.step_log.push(step, metrics, rows)
            self.checkpoints.check()
            if self.mirror is not None:
                self.mirror.check(self.log.warn)

            stopped = any_process(signals.is_received())
            last = step == train.steps
            evaluate = last or step % train.evaluate_every_steps == 0
            if evaluate or stopped or step % self.config.checkpoint.every_steps == 0:
                self.step_log.drain()
                with self.progress.working("saving"):
                    state = measure_ema(self.program, state, step, self.batches.__getitem__)
                    if evaluate:
                        beat(f"evaluating after step {step}")
                        self.evaluator.evaluate(state, step)
                        last = last or self.evaluator.staleness() is not None
                    self.step_log.check_skipped(ends=last)
                    evaluated = self.evaluator.metrics_at(step)
                    beat(f"saving step {step}")
                    if stopped or last or self.checkpoints.is_due(step, evaluated):
                        self.save(state, step)
                self.step_log.restart_clock()
            if stopped or last:
                break

        beat(f"waiting until step {step} is saved")
        profiler.close()
        self.checkpoints.require(step)
        if not last:
            stop = stop_reason(signals)
            self.log.event("signal", step, stop)
            self.log.info(f"{stop} after saving step {step}; the same command goes on")
            self.log.report(stop, step, samples=self.evaluator.samples)
            return STOPPED_AFTER_SAVING
        if step < train.steps:
            self.log.info(f"ended early, at step {step}: {self.evaluator.staleness()}")
        self.finish(state, step)
        return 0

    def compile(self, rows: Mapping[str, Any]) -> Any:
        """Compile the train step for batches with the shapes of `rows`; store it in `steps` and
        return it."""
        from data.batches import shapes_of

        self.step_log.drain()
        self.watchdog.beat("compiling the train step")
        abstract = self.program.batch_shape(rows, self.config.data.global_batch_size)
        which = f" for shape {len(self.steps) + 1}" if self.steps else ""
        with self.progress.compiling(f"the train step{which}"):
            lowered = self.program.train_step.lower(self.program.abstract_state, abstract)
            train_step = self.steps[shapes_of(rows)] = lowered.compile()
        self.step_log.restart_clock()
        return train_step

    def save(self, state: TrainState, step: int) -> None:
        """Save the state; the files are written in the background. Raises `Corrupted` if checks
        are due before a save, and find something."""
        from parallel.products import selected_library
        from reporting.report.machine import versions

        self.checks.check_before_save(state, step)
        past = {
            "evaluations": self.evaluator.history,
            "warmup_steps": self.program.warmup_steps,
            "matrix_products": selected_library(),
        } | self.spikes.history
        contents = {
            "config": self.config.model_dump(mode="json"),
            "data": self.dataset.metadata,
            "metrics": self.evaluator.metrics_at(step),
            "history": self.log.history | past,
            "versions": versions(),
        }
        axes = self.program.model_def.graph.axes()
        self.checkpoints.save(step, state, axes=axes, contents=contents)

    def saved(self, step: int) -> None:
        """Note that the checkpoint of `step` is complete; called in another thread."""
        self.log.event("saved", step)
        if self.mirror is not None:
            self.mirror.request()

    def finish(self, state: TrainState, step: int) -> None:
        """Write the report of a finished run, and print its samples and metrics."""
        from parallel.distributed import is_main_process

        self.watchdog.beat("writing the report")
        pages = self.evaluator.finish(state)
        if better := self.checkpoints.better_than(step):
            self.log.info(better_step_text(self.checkpoints.metric.name, *better))
        self.progress.stop()
        self.log.event("finished", step)
        if is_main_process():
            self.evaluator.print_result()
            print(f"report: {self.log.report('finished', step, **pages)}")

    def last_step(self) -> int:
        """Return the number of steps that are known to be done."""
        return max(0, self.step_log.last_step, self.checkpoints.saved_step)

    def close(self) -> None:
        """Wait until everything is on the disk."""
        self.watchdog.beat("waiting until everything is saved")
        self.checkpoints.close()
        if self.mirror is not None:
            self.mirror.request()  # Once more while the log is open, if the last copy failed.
            self.mirror.wait(self.log.warn, self.watchdog.beat_again)
        self.log.close()


if __name__ == "__main__":
    run_verb(main)
