"""Trains what a recipe describes, or goes on where its workdir stands.

python train.py --config=configs/NAME.py --workdir=DIR [--config.section.field=value ...]
python train.py --config=configs/NAME.py --explain
python train.py --config=configs/NAME.py --show_batch

Read top to bottom: the configuration, the mesh, the data, the state, and the loop.
Exit status: 0 done, 2 a mistake in what was asked, 75 stopped by a signal after saving.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs
import parallel
from configs import Flag, UsageError
from evaluate import evaluate_split

if TYPE_CHECKING:  # JAX is imported inside main(), when the command line is known to be right.
    import data
    import inference
    import training

FLAGS = (
    Flag("config", meaning="the recipe, a file in configs/ or anywhere", required=True),
    Flag("workdir", meaning="the folder of this run: made, or gone on with"),
    Flag("explain", meaning="print every field, its value and where it came from", switch=True),
    Flag("show_batch", meaning="print batch 0 as the model gets it", switch=True),
)
STOPPED_AFTER_SAVING = 75
MOST_MISTAKES = 200
"""Of the pictures taken for others: so many are read again for the report."""


def main(argv: Sequence[str]) -> int:
    """The whole of a run. Returns the exit status."""
    # ---- Configuration: nothing on disk is touched, and JAX not started, until it is right.
    arguments = configs.parse_command_line(argv, FLAGS)
    if arguments.explain:
        print(configs.explain(arguments.config, arguments.overrides))
        config = configs.load_config(arguments.config, arguments.overrides, inputs=False)
        print(f"\n{parallel.explain_environment(config)}")
        return 0
    config = configs.load_config(arguments.config, arguments.overrides)
    if not arguments.show_batch:
        if arguments.workdir is None:
            raise UsageError(
                "--workdir is missing: --workdir=DIR (the folder that this run writes)"
            )
        check_resumable(config, Path(arguments.workdir))

    # ---- Mesh.
    tuned = parallel.set_environment(config)
    import jax

    import data
    import training

    parallel.start()
    mesh = parallel.make_mesh(config)
    if mesh.size < jax.device_count():
        notify(f"the mesh takes {mesh.size} of {jax.device_count()} devices")
    progress = training.Progress()
    troubles: list[str] = []
    attention = training.working_attention(config, mesh, troubles.append)

    # ---- Data.
    dataset = data.prepare(config.data, progress=progress.preparation, notify=progress.note)
    if arguments.show_batch:
        batches = training_batches(config, dataset, rows=None)
        origins = batches.origins(0) if dataset.splits["train"].parts else ()
        print(data.describe_batch(batches[0], dataset, origins))
        return 0

    # ---- State, from the newest good checkpoint or fresh; then the loop.
    jax.config.update("jax_compilation_cache_dir", str(data.cache_dir(config.data) / "compiled"))
    workdir = Path(arguments.workdir)
    main_process = parallel.is_main_process()
    lock = training.WorkdirLock(workdir, notify) if main_process else contextlib.nullcontext()
    with lock, training.StopSignals() as signals:
        if main_process:
            configs.write_config(config, workdir)
            if dataset.tokenizer is not None:
                dataset.tokenizer.save(workdir / "tokenizer.json")
        program = training.build_program(config, dataset.sizes, mesh, attention=attention)
        run = Run.open(config, workdir, dataset, program, progress, tuned)
        for trouble in troubles:
            run.notify(trouble)
        try:
            return run.go(signals)
        finally:
            run.close()


def check_resumable(config: configs.Config, workdir: Path) -> None:
    """Refuses a workdir that was trained with other settings than those that may change."""
    if not (workdir / "config.json").exists():
        return
    changed = configs.differences(configs.read_config(workdir), config)
    configs.refuse_differences(workdir, changed)
    for difference in changed:
        notify(f"{difference} (since this workdir was last trained)")


def training_batches(
    config: configs.Config, dataset: "data.Dataset", rows: slice | None
) -> "data.Batches":
    """The endless shuffled batches of the training split."""
    import data

    return data.Batches(
        dataset.splits["train"],
        global_batch_size=config.data.global_batch_size,
        seed=config.seed,
        shuffle=True,
        rows=rows,
    )


def notify(text: str) -> None:
    """A line on standard error."""
    print(f"train.py: {text}", file=sys.stderr, flush=True)


class Diverged(Exception):
    """Too many steps in a row were not finite."""


@dataclass
class Run:
    """One run in one workdir: what the loop and the things it does now and then share."""

    config: configs.Config
    workdir: Path
    dataset: "data.Dataset"
    program: "training.Program"
    checkpoints: "training.Checkpoints"
    progress: "training.Progress"
    tuned: dict[str, str]
    log: "training.MetricLog | None" = None
    notices: list[str] = field(default_factory=list)
    evaluated: dict[str, float] = field(default_factory=dict)
    generator: "inference.Generator | None" = None
    samples: list[tuple[str, str]] = field(default_factory=list)
    saved_step: int = -1
    last_step: int = 0
    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, config, workdir, dataset, program, progress, tuned) -> "Run":
        """Opens the checkpoints."""
        import training

        metric = config.checkpoint.best_metric
        checkpoints = training.Checkpoints(
            workdir / "checkpoints",
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            metric=metric,
            higher_is_better=metric in program.task.higher_is_better,
        )
        return cls(config, workdir, dataset, program, checkpoints, progress, tuned)

    def go(self, signals: "training.StopSignals") -> int:
        """From the workdir's state to the last step, or to a signal."""
        import training

        steps = self.config.train.steps
        found = self.find_checkpoint()
        first = found[0] if found else 0
        if first >= steps:
            notify(
                f"{self.workdir} is finished: {first} of {steps} steps are done. To go on, give a "
                f"larger --config.train.steps. Its report is {self.workdir / 'report.html'}"
            )
            return 0
        if self.config.optimizer.warmup_steps != training.warmup_steps(self.config):
            self.notify(
                f"optimizer.warmup_steps is longer than the run: cut to "
                f"{training.warmup_steps(self.config)}"
            )
        if parallel.is_main_process():
            self.log = training.MetricLog(self.workdir, first_step=first, notify=self.notify)
        state = self.restore(*found) if found else self.program.initialize()
        self.progress.start(total=steps, first_step=first)
        try:
            return self.loop(state, first, signals)
        except Diverged as error:
            self.notify(str(error))
            self.write_report("diverged", self.last_step)
            return 1
        finally:
            self.progress.stop()

    def find_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Step and manifest of the newest good checkpoint; worse ones are told of and set aside."""
        import training

        folder = self.workdir / "checkpoints"
        try:
            found = training.find_good_step(folder, self.notify)
        except training.Damaged as damage:
            raise UsageError(f"{damage}; to begin anew, give another --workdir") from None
        parallel.wait_for_all("checkpoints verified")
        if parallel.is_main_process():
            training.set_aside_unusable(folder, found[0] if found else -1, self.notify)
        parallel.wait_for_all("unusable checkpoints set aside")
        return found

    def restore(self, step: int, manifest: dict[str, Any]) -> "training.TrainState":
        """The state of a checkpoint on this run's mesh."""
        import training

        if manifest["data"]["fingerprint"] != self.dataset.fingerprint:
            raise UsageError(
                f"the data changed since checkpoint {step} of {self.workdir}: give the old data, "
                "or another --workdir"
            )
        self.saved_step = step
        self.seconds_before = manifest["history"]["seconds"]
        self.notices[:0] = manifest["history"]["notices"]
        self.notify(f"going on from checkpoint {step}")
        folder = self.workdir / "checkpoints"
        return training.restore_state(folder, step, manifest, self.program.abstract_state)

    def loop(self, state, first: int, signals: "training.StopSignals") -> int:
        """Steps `first` to the last one; evaluates, saves and logs when it is time."""
        import data
        import training

        train, batch_size = self.config.train, self.config.data.global_batch_size
        part = parallel.local_rows(self.program.batch_sharding, batch_size)
        batches = training_batches(self.config, self.dataset, part)
        example = batches[first]
        train_step = self.compile(state, example)
        meter = training.StepMeter(
            batch_size,
            counts_tokens="tokens" in example,
            peak_examples_per_second=self.program.peak_examples_per_second,
        )
        stream = data.stream(batches, first, train.steps, self.config.data.workers)

        for step in range(first + 1, train.steps + 1):
            asked = time.perf_counter()
            rows = next(stream)
            waited = time.perf_counter() - asked
            batch = parallel.put_batch(rows, self.program.batch_sharding, batch_size)
            state, metrics = train_step(state, batch)
            if train.log_batch_crc32:
                metrics["batch_crc32"] = parallel.batch_crc32(rows)
            self.read(meter.push(step, metrics, waited), meter)
            self.checkpoints.check()

            stopped = parallel.any_process(signals.received is not None)
            last = step == train.steps
            evaluate = last or step % train.evaluate_every_steps == 0
            if evaluate or stopped or step % self.config.checkpoint.every_steps == 0:
                self.read(meter.drain(), meter)
                if evaluate:
                    self.evaluate(state, step)
                if stopped or last or self.is_worth_saving(step):
                    self.save(state, step)
                meter.restart_clock()
            if stopped and not last:
                self.checkpoints.wait()
                stop = f"stopped by {signals.received or 'a signal elsewhere'}"
                self.notify(f"{stop} after saving step {step}; the same command goes on")
                self.write_report(stop, step)
                return STOPPED_AFTER_SAVING

        self.checkpoints.wait()
        self.finish(state)
        return 0

    def compile(self, state, example: dict[str, Any]):
        """The train step, compiled for this state and batch before the first is consumed."""
        abstract = self.program.batch_shape(example, self.config.data.global_batch_size)
        with self.progress.compiling("the train step"):
            return self.program.train_step.lower(state, abstract).compile()

    def read(self, ready, meter: "training.StepMeter") -> None:
        """Logs a step whose metrics have arrived, and ends a run that is poisoned."""
        if ready is None:
            return
        step, metrics = ready
        self.last_step = step
        skipped = int(metrics.pop("skipped"))
        metrics.pop("weight")
        train = self.config.train
        if skipped:
            self.notify(
                f"step {step}: the loss or its gradient is not finite; the batch changed nothing "
                f"({skipped} in a row)"
            )
        if step % train.log_every_steps == 0 or step == train.steps or skipped:
            metrics |= meter.take_rates()
            self.write_metrics(step, metrics)
        self.progress.update(step, metrics)
        if skipped >= train.max_skipped_steps:
            raise Diverged(
                f"{skipped} steps in a row were not finite (train.max_skipped_steps). Try a lower "
                f"optimizer.learning_rate; the last checkpoint is {max(self.saved_step, 0)}"
            )

    def evaluate(self, state, step: int) -> None:
        """Metrics of the validation split into the log, and samples of what the model writes."""
        self.evaluated = {"step": step}
        if "validation" in self.dataset.splits:
            with self.progress.working("evaluating"):
                metrics, _ = self.metrics_of("validation", state)
            self.evaluated |= metrics
            self.write_metrics(step, {f"validation/{name}": m for name, m in metrics.items()})
            self.progress.validation(step, metrics)
        self.samples = self.sample(state, step)

    def write_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """A line of metrics.jsonl, if this is the process that writes."""
        if self.log is not None:
            self.log.write(step, metrics)

    def metrics_of(self, split: str, state, *, keep_outputs: bool = False):
        """What evaluate.py would print of this state, with the average where there is one."""
        return evaluate_split(
            self.program,
            state.params if state.ema is None else state.ema,
            state.statistics,
            self.dataset.splits[split],
            keep_outputs=keep_outputs,
        )

    def is_worth_saving(self, step: int) -> bool:
        """Whether `step` is due for a checkpoint, or the best one that was evaluated so far."""
        settings = self.config.checkpoint
        if step % settings.every_steps == 0:
            return True
        if not settings.keep_best or self.evaluated.get("step") != step:
            return False
        self.checkpoints.wait()
        value = self.evaluated.get(settings.best_metric)
        return value is not None and self.checkpoints.is_better(value, self.checkpoints.best())

    def save(self, state, step: int) -> None:
        """Hands the state to the background, once for each step."""
        if step == self.saved_step:
            return
        import training

        facts = {
            "fingerprint": self.dataset.fingerprint,
            "sizes": self.dataset.sizes,
            "classes": self.dataset.classes,
        }
        metrics = self.evaluated if self.evaluated.get("step") == step else {}
        self.checkpoints.save(
            step,
            state,
            axes=self.program.template.axes(),
            contents={
                "config": self.config.model_dump(mode="json"),
                "data": facts,
                "metrics": metrics,
                "history": {"seconds": self.seconds(), "notices": self.notices},
                "versions": training.versions(),
            },
        )
        self.saved_step = step

    def finish(self, state) -> None:
        """What a user wants to know at the end: the figures, samples, where the report is."""
        name = "test" if "test" in self.dataset.splits else "validation"
        facts: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        if name == "validation":
            metrics = {key: value for key, value in self.evaluated.items() if key != "step"}
        elif name in self.dataset.splits:
            with self.progress.working(f"evaluating the {name} split"):
                metrics, outputs = self.metrics_of(
                    name, state, keep_outputs=self.dataset.classes is not None
                )
            if "prediction" in outputs:
                facts |= self.mistakes(name, outputs)
        test = metrics if name == "test" else None
        path = self.write_report("finished", self.config.train.steps, test=test, **facts)
        self.progress.stop()
        if path is None:
            return
        for prompt, completion in self.samples:
            print(f"--- sample after {prompt!r}\n{prompt}{completion}\n")
        if metrics:
            print(f"{name}: " + ", ".join(f"{key} {value:.6g}" for key, value in metrics.items()))
            gzip = self.dataset.splits[name].gzip_bits_per_byte
            if gzip and "bits_per_byte" in metrics:
                print(f"gzip -9 on the same files, one by one: bits_per_byte {gzip:.6g}")
        print(f"report: {path}")

    def sample(self, state, step: int) -> list[tuple[str, str]]:
        """What the model writes after each of `task.sample_prompts`; a file in samples/ too."""
        import jax

        from inference import Generator, Request, Sampling
        from training import write_atomically

        prompts = getattr(self.config.task, "sample_prompts", ())
        if not prompts or jax.process_count() > 1:
            return []
        if self.generator is None:
            self.generator = Generator(
                self.dataset.tokenizer,
                context=self.config.data.sequence_length,
                mesh=self.program.mesh,
                rules=self.config.mesh.rules.model_dump(),
            )
        sampling = Sampling(temperature=self.config.task.sample_temperature, seed=self.config.seed)
        requests = [Request(p, self.config.task.sample_tokens, sampling=sampling) for p in prompts]
        weights = state.params if state.ema is None else state.ema
        with self.progress.working("writing samples"):
            module = self.program.template.bind(weights, state.statistics)
            texts = [done.text for done in self.generator.complete(module, requests)]
        samples = list(zip(prompts, texts, strict=True))
        folder = self.workdir / "samples"
        folder.mkdir(exist_ok=True)
        shown = [f"--- {prompt!r}\n{prompt}{text}\n" for prompt, text in samples]
        write_atomically(folder / f"step-{step:08d}.txt", "\n".join(shown))
        return samples

    def mistakes(self, name: str, outputs: dict[str, Any]) -> dict[str, Any]:
        """The confusion matrix of a split, and the pictures that were surely taken for others."""
        import numpy as np

        import data

        classes = self.dataset.classes
        labels, predictions = outputs["label"], outputs["prediction"]
        counts = np.zeros((len(classes), len(classes)), int)
        np.add.at(counts, (labels, predictions), 1)
        confidences = outputs["scores"].max(axis=1)
        wrong = np.flatnonzero(labels != predictions)
        surest = wrong[np.argsort(-confidences[wrong])][:MOST_MISTAKES]
        one = data.Batches(self.dataset.splits[name], global_batch_size=1, seed=0, shuffle=False)
        return {
            "confusion": (classes, counts),
            "mistakes": [
                (
                    one[int(i)]["image"][0],
                    classes[labels[i]],
                    classes[predictions[i]],
                    float(confidences[i]),
                )
                for i in surest
            ],
        }

    def write_report(self, status: str, step: int, *, test=None, **facts: Any) -> Path | None:
        """Writes report.html after `step` steps; None where another process does."""
        import data
        import training

        if self.log is None:
            return None
        summary = {
            "name": str(self.workdir),
            "status": status,
            "step": step,
            "steps": self.config.train.steps,
            "parameters": self.program.parameter_count,
            "seconds": self.seconds(),
            "examples": step * self.config.data.global_batch_size,
        }
        if self.dataset.tokenizer is not None:
            summary["tokens"] = summary["examples"] * self.config.data.sequence_length
        validation = self.dataset.splits.get("validation")
        if validation is not None and validation.gzip_bits_per_byte is not None:
            summary["gzip_bits_per_byte"] = validation.gzip_bits_per_byte
        if test is not None:
            summary["test"] = test
        return training.write_report(
            self.workdir,
            summary=summary,
            config=self.config,
            environment=training.environment(self.tuned),
            metrics=training.read_metrics(self.workdir),
            notices=self.notices,
            samples=self.samples,
            data=data.data_table(self.dataset),
            **facts,
        )

    def seconds(self) -> float:
        """Seconds that this run has taken, earlier sittings included to their last checkpoint."""
        return self.seconds_before + time.monotonic() - self.started

    def notify(self, text: str) -> None:
        """A line that stands above the progress, and in the report."""
        self.notices.append(text)
        self.progress.note(text)

    def close(self) -> None:
        """Waits for the disk."""
        self.checkpoints.close()
        if self.log is not None:
            self.log.close()


if __name__ == "__main__":
    configs.run_verb(main)
