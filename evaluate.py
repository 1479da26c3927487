"""Computes the metrics of a trained model on a split; the last line printed is one JSON object.

python evaluate.py --workdir=DIR [--split=test] [--step=N|best] [--weights=raw] [--predictions=FILE]
                   [--weights_dtype=int8|bfloat16] [--config.section.field=value ...]
python evaluate.py --from=PATH ...                    what export.py wrote, on the data of its run
python evaluate.py --workdir=DIR --from=PATH ...      a model on the data of the run in DIR

PATH may also be a folder of transformers, if DIR says on which data: it needs tokens and classes as
in DIR. Its weights take the place of those in DIR.

For a classifier, a table of its classes comes before this line. `examples` is the number of
images, recordings, texts, pairs, or windows of packed text. For windows, the number of
`documents` or `conversations` in them is printed too. A metric that is not finite is null, and is
named on standard error.

--predictions writes one JSON object per example to FILE: the example's number in the split, its
name, and the model's prediction. For a model that writes text, `hypothesis` is the model's answer
and `reference` is the correct one. The name is a file, or a file and line, as in error messages
(`reviews.csv:7`; `reviews.parquet row 5`, counted from 0, if the file has no lines).

With --weights_dtype=int8 or bfloat16, the split is evaluated with float32 weights too: a table
shows what each metric loses, and the JSON object has those of float32 as `loss_float32` and so on.

Every target of the split counts once, on any number of devices. If there are several processes,
only the first one prints and writes. The default split is `test` if there is one, else
`validation`. The default weights are the averages (EMA) if the run has them.

Exit status: 0 done, 2 a usage error, 14 nothing moved for `train.hang_seconds` or a process did not
come, 1 any other error.
"""

import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError
from configs.json_text import json_text
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.inputs import check_inputs
from configs.reading.saved import with_workdir_tokenizer
from configs.remote import NONE, check_place
from configs.schema.precision import WEIGHTS_DTYPES
from inference.sources import (
    MODEL_FLAGS,
    ModelSource,
    exported_source,
    model_source,
    source_on_data_of,
)
from parallel.environment import enable_compilation_cache, set_environment
from parallel.rendezvous import Absent
from training.watchdog import STALLED, Watchdog

if TYPE_CHECKING:
    from configs.schema.config import Config
    from data.dataset import Dataset, Split
    from inference.evaluation import BatchPredictor
    from reporting.evaluator import Evaluator
    from reporting.progress import Progress
    from reporting.run_log import RunLog
    from training.model_def import ModelDef
    from training.program import TrainProgram
    from training.restore import Restored

FLAGS = (
    *MODEL_FLAGS,
    Flag("split", meaning="train, validation or test"),
    Flag("weights_dtype", meaning="the dtype of the weights (as trained)", choices=WEIGHTS_DTYPES),
    Flag("predictions", meaning="a file for one JSON object per example"),
)
SLOWDOWN_ROWS = 256  # A batch of an evaluation has about this many positions, or more.
LONGEST_NAME = 40  # Widest class name in the table, in terminal columns.


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`. Return the exit status."""
    try:
        return evaluate(argv)
    except Absent as error:
        from parallel.distributed import leave

        say(str(error))
        return leave(STALLED)


def evaluate(argv: Sequence[str]) -> int:
    """Restore the model, evaluate the split, print the metrics. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    source = evaluated_source(arguments)
    is_exported = getattr(arguments, "from") is not None and arguments.workdir is not None
    data_from = Path(arguments.workdir) if is_exported else source.path
    config = with_workdir_tokenizer(source.config, data_from)
    if arguments.predictions is not None:
        check_predictions(Path(arguments.predictions))
    check_data(config, arguments.overrides)
    set_environment(config)

    import jax

    from data.cache import cache_dir
    from data.preparation import prepare
    from inference.predictors.registry import predictor_class
    from inference.quantization import slowdown_message, with_weights_dtype
    from parallel.distributed import initialize_distributed, is_main_process
    from parallel.exchange import agree, first, working
    from parallel.mesh import flat_mesh
    from parallel.products import reuse_library
    from reporting.progress import Progress
    from reporting.report.predictions import Predictions
    from reporting.stalls import Stalls
    from training.divergence import not_finite

    limit = config.train.hang_seconds
    initialize_distributed(seconds=limit, notify=say)
    enable_compilation_cache(cache_dir(config.data))
    # Only the first process prints; the others compute their part.
    main_process = is_main_process()
    progress = Progress(shown=main_process)
    notify = progress.note if main_process else lambda text: None
    mesh = flat_mesh(jax.devices())
    stalls = Stalls(limit, "The same command begins again", say)
    keep = None if arguments.predictions is not None else Predictions.arrays()
    weights_dtype = arguments.weights_dtype
    float32_metrics: dict[str, float] = {}

    def measure(model: "Restored") -> tuple[dict[str, float], dict[str, Any]]:
        watchdog.beat(f"evaluating the {split.name} split")
        predictor = predictor_class(config).of(model.model_def, dataset.tokenizer)
        return measure_split(
            model.model_def,
            model.params,
            model.statistics,
            split,
            keep=keep,
            batch_predictor=predictor.batch_predictor,
            on_batch=watchdog.beat_again,
        )

    with Watchdog(limit, stalls.report) as watchdog, stalls.naming_lost_processes():
        watchdog.beat(f"restoring the model from {source.path}")
        restored = source.restore(mesh, warn=lambda text: notify(f"evaluate.py: {text}"))
        reuse_library(config, mesh, restored.manifest)
        watchdog.pause()  # Preparation may take as long as it needs.
        with working() as noticed:
            dataset = prepare(config.data, progress=noticed(progress.preparation), warn=notify)
            changes = dataset.changes_since(restored.manifest["data"])
            if changes is not None:
                text = f"{changes} since {data_from} was trained: its metrics would not hold"
                raise UsageError(text)
            split = choose_split(dataset, arguments.split)
        agree("prepared", None, first)
        if weights_dtype not in (None, "float32"):
            if message := slowdown_message(restored, weights_dtype, rows=SLOWDOWN_ROWS):
                notify(f"evaluate.py: {message}")
            float32_metrics, _ = measure(with_weights_dtype(restored, "float32"))
        metrics, outputs = measure(with_weights_dtype(restored, weights_dtype))
    if not main_process:
        return 0
    if arguments.predictions is not None:
        write_predictions(Path(arguments.predictions), outputs, dataset.spec.classes, split.names())
        if missing := split.examples - len(outputs["example"]):
            notify(f"{missing:,} of {split.examples:,} examples are broken: no line for them")
    if lost := not_finite(metrics):
        notify(
            f"evaluate.py: not finite, and null below: {', '.join(lost)}. The model's scores are "
            "no numbers: it has no answers"
        )
    elif "prediction" in outputs:
        told = Predictions.of(outputs, split.name, dataset.spec.require("classes"))
        print(class_table(told.table()) + "\n")
    if float32_metrics:
        print(quality_table(metrics, float32_metrics, weights_dtype) + "\n")
    counts = {"examples": metrics["examples"], **split.packed}
    result = {"step": restored.step, "split": split.name, **(counts | metrics)}
    if weights_dtype is not None:
        result["weights_dtype"] = weights_dtype
    float32_metrics.pop("examples", None)
    print(json_text(result | {f"{n}_float32": value for n, value in float32_metrics.items()}))
    return 0


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"evaluate.py: {text}", file=sys.stderr, flush=True)


def evaluated_source(arguments: SimpleNamespace) -> ModelSource:
    """Return the model that is evaluated; its configuration and its manifest say on which data.

    Raises `UsageError` as `model_source` does, for a model without data, and for one that does not
    fit the data of --workdir.
    """
    workdir, path, step, weights = (getattr(arguments, flag.name) for flag in MODEL_FLAGS)
    if workdir is not None and path is not None:
        otherwise = f"with --from, give a folder: python checkpoint.py copy {workdir} DIR"
        check_place("--workdir=", workdir, NONE, otherwise)
        exported = exported_source(path, step, weights)
        return source_on_data_of(exported, Path(workdir), arguments.overrides)
    source = model_source(workdir, path, step, weights, arguments.overrides)
    if source.is_foreign:
        raise UsageError(
            f"--from={source.path} says nothing of data: give --workdir=DIR too, a run on whose "
            "data the model is evaluated"
        )
    return source


def check_data(config: "Config", overrides: Collection[str]) -> None:
    """Raise `UsageError` if the data of the run is missing. It names the field that says where the
    data is now, unless this is among the `overrides`."""
    try:
        check_inputs(config)
    except UsageError as error:
        field = next((one for one in ("data.path", "data.parts") if str(error).startswith(one)), "")
        if not field or field in overrides:
            raise
        raise UsageError(
            f"{error}. If the data was moved, --config.{field}=... says where it is"
        ) from None


def check_predictions(path: Path) -> None:
    """Raise `UsageError` if no file can be written at `path`."""
    check_place("--predictions=", path, NONE, "give a file")
    if path.is_dir():
        raise UsageError(f"--predictions={path} is a folder: give a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--predictions={path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"--predictions={path} can't be written: Permission denied")


def choose_split(dataset: "Dataset", name: str | None) -> "Split":
    """Return the split called `name`; without a name, `test` if there is one, else `validation`."""
    there = dataset.splits
    if name is None:
        name = "test" if "test" in there else "validation"
    if name not in there:
        raise UsageError(f"--split={name}: there is no such split; there are {', '.join(there)}")
    return there[name]


def measure_split(
    model_def: "ModelDef",
    params: Any,
    statistics: Any,
    split: "Split",
    *,
    keep: Collection[str] | None,
    batch_predictor: "BatchPredictor | None",
    most_answers: int | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Evaluate a split in batches; each process evaluates its own rows.

    Returns the metrics and the outputs per example, as `evaluate_split` does.

    keep, batch_predictor, most_answers: as in `evaluate_split`.
    on_batch: called before each batch.
    """
    from data.evaluation_batches import EvaluationBatches
    from inference.evaluation import evaluate_split
    from parallel.feeding import local_rows

    size = model_def.evaluation_batch_size
    rows = local_rows(model_def.batch_sharding, size)
    return evaluate_split(
        model_def,
        params,
        statistics,
        partial(EvaluationBatches, split, size, rows, on_batch=on_batch),
        coded_bytes=split.coded_bytes,
        keep=keep,
        batch_predictor=batch_predictor,
        most_answers=most_answers,
    )


def make_evaluator(
    dataset: "Dataset",
    program: "TrainProgram",
    log: "RunLog",
    progress: "Progress",
    on_batch: Callable[[], None],
) -> "Evaluator":
    """Build the object that evaluates a run of train.py during training. on_batch: called before
    each batch of an evaluation."""
    import jax

    from data.batches import training_batches
    from data.show import ExampleViewer, line_beginnings
    from data.statistics import data_statistics
    from inference.predictors.completion import TextCompletion
    from inference.predictors.registry import predictor_class
    from inference.samples import sample_completions
    from reporting.evaluator import Evaluator

    config = program.config
    predictor = predictor_class(config).of(program.model_def, dataset.tokenizer)
    sample = None
    prompts = getattr(config.task, "sample_prompts", ())
    if prompts is None:
        prompts = line_beginnings(dataset)
        log.info(f"samples continue lines of the text: {', '.join(map(repr, prompts))}")
    if prompts and isinstance(predictor, TextCompletion) and jax.process_count() == 1:
        sample = partial(sample_completions, predictor, config=config, prompts=prompts)
    return Evaluator(
        program,
        log,
        progress,
        splits=dataset.splits,
        classes=dataset.spec.classes,
        measure_split=partial(
            measure_split, batch_predictor=predictor.batch_predictor, on_batch=on_batch
        ),
        sample=sample,
        examples=partial(ExampleViewer, dataset),
        batch=training_batches(config, dataset, rows=None).__getitem__,
        data_facts=partial(data_statistics, dataset),
    )


def write_predictions(
    path: Path,
    outputs: Mapping[str, Any],
    classes: Sequence[str] | None,
    names: Sequence[str] | None,
) -> None:
    """Write a JSON line for each example, in the order of the split.

    Its keys: `example`, the example's number; `name`, if the split has names; and the task's
    outputs. For a classifier, `label_name` and `prediction_name` are added.
    """
    with path.open("w", encoding="utf-8") as file:
        for row in range(len(outputs["example"])):
            record = {}
            if names is not None:
                record["name"] = names[outputs["example"][row]]
            for name, values in outputs.items():
                (record[name],) = values[row : row + 1].tolist()
                if classes is not None and name in ("label", "prediction"):
                    record[f"{name}_name"] = classes[record[name]]
            if not math.isfinite(record.get("probability", 0.0)):
                record |= dict.fromkeys(("prediction", "prediction_name"))
            file.write(json_text(record) + "\n")


def quality_table(
    metrics: Mapping[str, float], float32_metrics: Mapping[str, float], weights_dtype: str
) -> str:
    """Format the metrics next to those of float32 weights, with the differences."""
    rows = [("", "float32", weights_dtype, "difference")]
    for name, value in metrics.items():
        if name != "examples":
            before = float32_metrics[name]
            rows.append((name, f"{before:.4f}", f"{value:.4f}", f"{value - before:+.4f}"))
    return class_table(rows)


def class_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as lines with aligned columns: names to the left, numbers to the right."""
    from rich.cells import cell_len, set_cell_size

    wide, *widths = (max(map(cell_len, column)) for column in zip(*rows, strict=True))
    wide = min(wide, LONGEST_NAME)
    lines = []
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([set_cell_size(name, wide), *numbers]))
    return "\n".join(lines)


if __name__ == "__main__":
    run_verb(main)
