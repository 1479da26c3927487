"""Summarises a run before its first step, in a few rows for the terminal and the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.layers.attend import NATIVE_ATTENTION
from parallel.products import selected_library
from reporting.wording import count_text
from training.model_def import compute_dtype
from training.program import TrainProgram

Rows = Sequence[tuple[str, str]]

_INPUTS = ("image", "frames", "source", "tokens")
"""Names of the arrays of a batch that a model reads."""


def summarize_start(
    program: TrainProgram, batch: Mapping[str, Any], train: Any, splits: Rows
) -> Rows:
    """Return a summary of the run, as rows of a name and a text.

    batch: the first training batch.
    train: the training split, of which `examples` and `lengths` are read.
    splits: rows that describe each split.
    """
    return [
        ("parameters", _parameters(program)),
        *splits,
        ("length", _length(program, train.examples)),
        ("devices", _devices(program)),
        ("train step", ", ".join(_train_step(program, batch, train))),
    ]


def aligned(rows: Rows) -> Iterator[str]:
    """Yield each row as a line, with the texts of all rows in one column."""
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        yield f"{name:{width}}  {text}"


def _parameters(program: TrainProgram) -> str:
    count, trained = program.model_def.parameter_count, program.trained_count
    frozen = f", {trained:,} of them trained" if trained < count else ""
    return f"{count:,}{frozen} ({program.config.model.architecture})"


def _length(program: TrainProgram, examples: int) -> str:
    train, size = program.config.train, program.config.data.global_batch_size
    epochs = train.steps * size / examples
    parts = train.gradient_accumulation
    cut = f" in {parts} parts one after the other" if parts > 1 else ""
    return (
        f"{_counted(train.steps, 'step')} of {_counted(size, 'example')}{cut}: "
        f"{_number(epochs)} epochs of {_number(examples / size)} steps"
    )


def _number(number: float) -> str:
    return f"{number:.3g}" if number < 100 else count_text(number)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _devices(program: TrainProgram) -> str:
    devices = program.mesh.devices
    axes = [f"{axis} {size}" for axis, size in program.mesh.shape.items() if size > 1]
    mesh = f" ({', '.join(axes)})" if axes else ""
    kind = devices.flat[0].device_kind
    return f"{devices.size} x {kind}{mesh}, {compute_dtype(program.config, program.mesh)}"


def _train_step(program: TrainProgram, batch: Mapping[str, Any], train: Any) -> Iterator[str]:
    """Yield the input shapes of the compiled step, and the attention and matmul implementations."""
    size = program.config.data.global_batch_size
    for name in _INPUTS:
        if name in batch:
            yield f"{name} {' x '.join(map(str, (size, *batch[name].shape[1:])))}"
    if train.lengths is not None and any(len(bounds) > 1 for bounds in train.lengths.bounds):
        yield "and for other lengths when the first of them comes"
    if (attention := program.model_def.attention) is not None:
        native = NATIVE_ATTENTION.get(program.mesh.devices.flat[0].platform, "xla")
        yield f"attention by {native if attention == 'auto' else attention}"
    is_float32 = compute_dtype(program.config, program.mesh) == "float32"
    if is_float32 and program.config.precision.products != "float32":
        yield f"products in {program.config.precision.products}"
    if (library := selected_library()) != "xla":
        yield f"products by {library}"
