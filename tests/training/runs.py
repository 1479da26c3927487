"""Small runs of the recipes' models for tests of the step: the same batches on any mesh."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.config import Config
from parallel.feeding import put_batch
from parallel.mesh import make_mesh
from tests.compilation import USUAL_OPTIONS
from training.program import TrainProgram, build_program

NARROW = {
    "python_stdlib": {"model.width": "64", "model.depth": "2", "data.sequence_length": "32"},
    "shakespeare_char": {"model.width": "64", "model.depth": "2", "data.global_batch_size": "16"},
    "shakespeare_char_lstm": {
        "model.width": "32",
        "model.depth": "2",
        "data.sequence_length": "16",
        "data.global_batch_size": "16",
    },
    "digits_cnn": {"model.channels": "32,64", "model.width": "32", "data.global_batch_size": "16"},
}
"""Each recipe, made narrow: what is tested of it does not depend on how wide it is."""

STEADY = {
    "optimizer.learning_rate": "1e-3",
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": "0",
    "precision.compute_dtype": "float32",
    "precision.products": "float32",
}
"""Every step moves, so that a difference would grow."""


def load(recipe: str, **overrides: str) -> Config:
    """A recipe, narrow where there is a way, with overrides; `__` stands for the dot:
    `mesh__fsdp="8"`."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    dotted = NARROW.get(recipe, {}) | STEADY | dotted
    if recipe.startswith("shakespeare"):
        dotted["data.path"] = __file__  # has to be there, and is not read: the batches are invented
    return load_config(f"configs/{recipe}.py", dotted)


def build(config: Config) -> TrainProgram:
    """The program on the configuration's mesh, with the sizes of invented data."""
    if config.task.name == "language_modeling":
        spec = DataSpec(vocabulary_size=67, max_length=config.data.sequence_length)
    else:
        spec = DataSpec(num_classes=10, image_shape=(8, 8, 1))
    return build_program(config, spec, make_mesh(config))


def as_users_have_it(program: TrainProgram) -> TrainProgram:
    """The program whose step is compiled as outside of tests (`tests/compilation.py`): what a quick
    compilation fuses or sums otherwise parts after some steps by more than rounding."""
    step = jax.jit(program.train_step, donate_argnums=0, compiler_options=USUAL_OPTIONS)
    return dataclasses.replace(program, train_step=step)


def batches(config: Config, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """Random global batches that depend on the step alone."""
    B = config.data.global_batch_size
    for step in range(steps):
        random = np.random.default_rng(step)
        if config.task.name == "language_modeling":
            T = config.data.sequence_length
            tokens = random.integers(0, 67, (B, T + 1), dtype=np.int32)
            weights = (random.random((B, T)) < 0.9).astype(np.float32)
            yield {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
        else:
            yield {
                "image": random.integers(0, 256, (B, 8, 8, 1), dtype=np.uint8),
                "label": random.integers(0, 10, B, dtype=np.int32),
                "weights": np.ones(B, np.float32),
            }


class RowBatches(list):
    """Batches of rows that stand in the order of the split, as `evaluate` takes them."""

    @property
    def global_batch_size(self) -> int:
        return len(self[0]["weights"])

    @property
    def order(self) -> np.ndarray:
        return np.arange(len(self) * self.global_batch_size)


def step(
    program: TrainProgram, state: Any, batch: dict[str, np.ndarray]
) -> tuple[Any, dict[str, float]]:
    """The state after one batch, and its metrics."""
    size = program.config.data.global_batch_size
    placed = put_batch(batch, program.batch_sharding, size)
    state, metrics = program.train_step(state, placed)
    return state, {name: float(value) for name, value in jax.device_get(metrics).items()}


def train(program: TrainProgram, steps: int) -> Any:
    """The state after `steps` steps from the beginning."""
    state = program.initialize()
    for batch in batches(program.config, steps):
        state, _ = step(program, state, batch)
    return state
