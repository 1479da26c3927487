"""Metrics of a trained model on a split: the last line on standard output is one JSON object.

python evaluate.py --workdir=DIR [--split=test] [--step=N|best] [--weights=raw] [--predictions=FILE]

Every target of the split counts once, on however many devices. Without --split it takes `test`
if there is one, else `validation`; without --weights the average (EMA) where the run keeps one.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs
import parallel
from configs import Flag, UsageError

if TYPE_CHECKING:
    import data
    import training

FLAGS = (
    Flag("workdir", meaning="the folder that train.py wrote", required=True),
    Flag("split", meaning="train, validation or test"),
    Flag("step", meaning="a checkpoint's number, `best` or `latest`", default="latest"),
    Flag("weights", meaning="the averaged or the raw weights", choices=("ema", "raw")),
    Flag("predictions", meaning="a file for one JSON object per example"),
)


def main(argv: Sequence[str]) -> int:
    """Restores, runs through the split, prints. Returns the exit status."""
    arguments = configs.parse_command_line(argv, FLAGS, overrides=True)
    workdir = Path(arguments.workdir)
    config = configs.read_config(workdir, arguments.overrides)
    configs.check_inputs(config)
    parallel.set_environment(config)

    import jax

    import data
    import training

    parallel.start()
    parallel.keep_compiled(data.cache_dir(config.data))
    restored = training.restore_model(
        workdir,
        config,
        step=arguments.step,
        weights=arguments.weights,
        mesh=parallel.flat_mesh(jax.devices()),
        warn=lambda text: print(f"evaluate.py: {text}", file=sys.stderr),
    )
    progress = training.Progress()
    dataset = data.prepare(config.data, progress=progress.preparation, notify=progress.note)
    if dataset.fingerprint != restored.manifest["data"]["fingerprint"]:
        raise UsageError(
            f"the data changed since {workdir} was trained: its metrics would not hold"
        )
    split = choose_split(dataset, arguments.split)
    metrics, outputs = evaluate_split(
        restored.program,
        restored.params,
        restored.statistics,
        split,
        keep_outputs=arguments.predictions is not None,
    )
    if arguments.predictions is not None:
        write_predictions(Path(arguments.predictions), outputs)
    print(json.dumps({"step": restored.step, "split": split.name, **metrics}))
    return 0


def choose_split(dataset: "data.Dataset", name: str | None) -> "data.Split":
    """The split called `name`; without one `test` if it is there, else `validation`."""
    there = dataset.splits
    if name is None:
        name = "test" if "test" in there else "validation"
    if name not in there:
        raise UsageError(f"--split={name}: there is no such split; there are {', '.join(there)}")
    return there[name]


def evaluate_split(
    program: "training.Program",
    params: Any,
    statistics: Any,
    split: "data.Split",
    *,
    keep_outputs: bool = False,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of a whole split, and the task's per-example arrays if they are to be kept."""
    import data
    import training

    batch_size = training.evaluation_batch_size(program)
    batches = data.Batches(
        split,
        global_batch_size=batch_size,
        seed=program.config.seed,
        shuffle=False,
        rows=parallel.local_rows(program.batch_sharding, batch_size),
    )
    return training.evaluate(
        program,
        params,
        statistics,
        data.stream(batches, 0, len(batches), 0),
        global_batch_size=batch_size,
        facts={"bytes": split.bytes},
        keep_outputs=keep_outputs,
    )


def write_predictions(path: Path, outputs: Mapping[str, Any]) -> None:
    """One JSON object a line, in the order of the split: `example` and the task's outputs."""
    with path.open("w", encoding="utf-8") as file:
        columns = [values.tolist() for values in outputs.values()]
        for example, row in enumerate(zip(*columns, strict=True)):
            record = {"example": example, **dict(zip(outputs, row, strict=True))}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    configs.run_verb(main)
