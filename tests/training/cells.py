"""The matrix: every family on every modality, as small as it can be, on one mesh after another."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.invented import batch, invented_spec
from configs.reading.recipes import load_config
from configs.schema.config import Config
from parallel.feeding import put_batch
from parallel.mesh import make_mesh
from training.program import TrainProgram, build_program

MIXERS = {
    "attention": {"model.pattern": "A", "model.num_heads": "2"},
    "convolution": {"model.pattern": "C"},
    "elman": {"model.pattern": "R", "model.recurrence": "elman"},
    "lstm": {"model.pattern": "R", "model.recurrence": "lstm"},
    "gru": {"model.pattern": "R", "model.recurrence": "gru"},
    "rg_lru": {"model.pattern": "R", "model.recurrence": "rg_lru"},
    "mixed": {
        "model.pattern": "RCA",
        "model.depth": "3",
        "model.recurrence": "gru",
        "model.num_heads": "2",
    },
}
BLOCKS = {"model.width": "16", "model.depth": "1"}
TEXT = BLOCKS | {"data.sequence_length": "16"}
PICTURES = BLOCKS | {
    "model.architecture": "vit",
    "model.patch_size": "4",
    "model.pooling": "mean",
}
SHORT_PAIRS = {
    "data.max_source_length": "12",
    "data.max_target_length": "8",
    "model.dropout": "0",
    "task.label_smoothing": "0.1",
}
PAIRS = BLOCKS | SHORT_PAIRS
CLASS_TOKEN = {"model.pooling": "class_token", "model.class_token_position": "true"}
BERT = {
    "model.positions": "learned",
    "model.norm": "layer_norm",
    "model.norm_placement": "post",
    "model.feed_forward": "gelu_tanh",
    "model.token_types": "2",
    "model.embedding_norm": "true",
}
LABELLED = TEXT | {"model.dropout": "0", "task.label_smoothing": "0"}

SOUND = BLOCKS | {
    "model.architecture": "sound_encoder",
    "model.subsampling_channels": "4",
    "data.num_mels": "16",
    "model.dropout": "0",
}
CONFORMER = {"model.architecture": "conformer", "model.num_heads": "2"}

CELLS: dict[str, tuple[str, Mapping[str, str]]] = {
    **{f"{name}, text": ("python_stdlib", TEXT | own) for name, own in MIXERS.items()},
    **{f"{name}, pictures": ("digits_cnn", PICTURES | own) for name, own in MIXERS.items()},
    "attention, pictures": ("digits_cnn", PICTURES | MIXERS["attention"] | CLASS_TOKEN),
    "mixed, missing tokens": (
        "masked_language_model",
        TEXT | MIXERS["mixed"] | BERT | {"model.head_transform": "true"},
    ),
    "mixed, labelled text": (
        "text_classification",
        LABELLED | MIXERS["mixed"] | {"model.pooling": "first_dense"},
    ),
    "conformer, transcripts": ("tones_ctc", SOUND | CONFORMER),
    **{
        f"{name}, transcripts": ("tones_ctc", SOUND | MIXERS[name])
        for name in ("attention", "convolution", "lstm")
    },
    "mixed, labelled sound": ("speech_classification", SOUND | MIXERS["mixed"]),
    "rnn, text": ("text_lstm", {"model.width": "16", "model.dropout": "0"}),
    "rnn, labelled text": (
        "text_classification",
        {
            "model.architecture": "rnn",
            "model.width": "16",
            "model.bidirectional": "true",
            "model.dropout": "0",
        },
    ),
    "mixed, text pairs": (
        "dates_seq2seq",
        PAIRS
        | {
            "model.depth": "1",
            "model.encoder_pattern": "R",
            "model.recurrence": "gru",
            "model.remat": "full",
            "model.num_heads": "2",
        },
    ),
    "rnn, text pairs": (
        "dates_seq2seq",
        {"model.architecture": "rnn_encoder_decoder", "model.width": "16"} | SHORT_PAIRS,
    ),
    "cnn, pictures": (
        "digits_cnn",
        {"model.channels": "8,16", "model.width": "16", "model.dropout": "0"},
    ),
}
"""A recipe and its overrides."""

SLOW_CELLS = {
    "resnet, pictures": (
        "digits_cnn",
        {
            "model.architecture": "resnet",
            "model.width": "8",
            "model.squeeze_excitation": "true",
            "task.mixup": "0.2",
            "task.cutmix": "1",
        },
    ),
}
"""Those that take long to compile."""

MESHES = {
    "one device": {"mesh.data": "1"},
    "data=8": {"mesh.data": "8"},
    "fsdp=8": {"mesh.data": "1", "mesh.fsdp": "8"},
    "tensor=2,data=4": {"mesh.data": "4", "mesh.tensor": "2"},
    "data=2,fsdp=2,tensor=2": {"mesh.data": "2", "mesh.fsdp": "2", "mesh.tensor": "2"},
}

STEADY = {
    "data.global_batch_size": "16",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": "0.1",
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": "0",
    "precision.compute_dtype": "float32",
    "precision.products": "float32",
}
"""Every step moves in proportion to its gradient."""


def load(cell: str, mesh: str) -> Config:
    """The configuration of a cell on a mesh."""
    recipe, fields = (CELLS | SLOW_CELLS)[cell]
    fields = STEADY | dict(fields) | MESHES[mesh]
    return load_config(f"configs/{recipe}.py", fields, inputs=False)


def build(config: Config) -> TrainProgram:
    """The program on the configuration's mesh, with the sizes of invented data."""
    return build_program(config, invented_spec(config), make_mesh(config))


def compiled_step(program: TrainProgram) -> Any:
    """The train step, compiled for the configuration's batches."""
    config = program.config
    shape = program.batch_shape(next(batches(config, 1)), config.data.global_batch_size)
    return program.train_step.lower(program.abstract_state, shape).compile()


Compiled = Callable[[str], tuple[TrainProgram, jax.stages.Compiled]]
"""Gives a cell's program on the mesh of a name, and its step."""


def compiled(cell: str, mesh: str) -> tuple[TrainProgram, jax.stages.Compiled]:
    """The program of a cell on a mesh, and its step."""
    program = build(load(cell, mesh))
    return program, compiled_step(program)


def take_step(program: TrainProgram, step: Any, state: Any, rows: Mapping[str, np.ndarray]):
    """The state after one batch, and its metrics as floats."""
    size = program.config.data.global_batch_size
    state, metrics = step(state, put_batch(rows, program.batch_sharding, size))
    return state, {name: float(value) for name, value in jax.device_get(metrics).items()}


def place(program: TrainProgram, state: Any) -> Any:
    """A state of arrays on the host, laid out on the program's mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)
    return jax.device_put(state, shardings)


@functools.cache
def fresh(cell: str) -> Any:
    """The state before the first step, on the host: the same for every mesh."""
    return jax.device_get(build(load(cell, "one device")).initialize())


def batches(config: Config, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """Random global batches that depend on the step alone."""
    for step in range(steps):
        yield batch(config, invented_spec(config), step)
