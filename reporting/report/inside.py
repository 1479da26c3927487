"""Shows the inside of a trained model: the filters of its first layer, and its attention on an
example."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from model.layers.attend import capture_attention
from training.program import TrainProgram

Tree = Any

MOST_POSITIONS = 24
"""Attention is shown for this number of tokens at the beginning of a text."""


class ExampleViewer(Protocol):
    """Examples of a split by number: as a batch of one, as tokens, or as an image, frames or text
    for people. Implemented by `data.show.ExampleViewer`."""

    def batch(self, number: int) -> Mapping[str, np.ndarray]: ...
    def tokens(self, number: int) -> Sequence[str]: ...
    def __call__(self, number: int) -> np.ndarray | str: ...


def look_inside(
    program: TrainProgram, params: Tree, statistics: Tree, examples: ExampleViewer
) -> dict[str, Any]:
    """Return `filters`, and `attention` on the first example (`attended`), as arguments of
    `write_report`. Return {} if the run has several processes."""
    if jax.process_count() > 1:
        return {}
    batch, axes = examples.batch(0), program.model_def.graph.axes()
    maps = attention_maps(program, params, statistics, batch)
    found: dict[str, Any] = {"attention": maps}
    if maps:
        length = maps[0].shape[-1]
        found["attended"] = examples.tokens(0)[:length] if "tokens" in batch else examples(0)
    if "image" in batch:
        found["filters"] = first_filters(params, axes, batch["image"].shape[-1])
    return found


def first_filters(params: Tree, axes: Tree, channels: int) -> np.ndarray | None:
    """Return the kernel of the first layer of a model for images, float32 [filters, height,
    width, channels]. Return None if there is no such layer.

    The layer is a convolution or a projection of patches. It is found by the names of its kernel's
    axes, and by `channels`, the number of channels of an image.
    """
    kinds = ((None, None, "channels_in", "channels_out"), (None, None, None, "embed"))
    for kernel, names in zip(jax.tree.leaves(params), jax.tree.leaves(axes), strict=True):
        if names in kinds and kernel.shape[2] == channels and kernel.shape[0] > 1:
            return np.moveaxis(np.asarray(kernel, np.float32), 3, 0)
    return None


def attention_maps(
    program: TrainProgram, params: Tree, statistics: Tree, batch: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Return each layer's attention on the single example of `batch`, float32 [heads, T, T]. For a
    text, only the first `MOST_POSITIONS` tokens are used. Return [] for a model without attention,
    for pairs and for audio."""
    axes = jax.tree.leaves(program.model_def.graph.axes())
    if {"source", "frames"} & set(batch) or not any("heads" in names for names in axes):
        return []
    if "tokens" in batch:
        batch = {name: rows[:, :MOST_POSITIONS] if rows.ndim > 1 else rows
                 for name, rows in batch.items()}  # fmt: skip
    of_one = functools.partial(watched, program, capture_attention, lambda one: one[0])
    maps = jax.jit(of_one)
    try:
        found = maps(params, statistics, dict(batch))
    except jax.errors.UnexpectedTracerError:  # Layers in a loop written in the model.
        return []
    return [np.asarray(one) for one in found if one.shape[1] == one.shape[2]]


def watched(
    program: TrainProgram,
    watch: Callable[..., Any],
    take: Callable[[jax.Array], jax.Array],
    params: Tree,
    statistics: Tree,
    batch: Mapping[str, Any],
) -> list[jax.Array]:
    """Evaluate `batch`; return `take(array)` for each array that `watch` captures. Call this inside
    `jax.jit`.

    watch: `capture_attention` or `capture_activations`. Layers run unrolled and without
    rematerialisation, so that each array is captured once.
    """
    module = program.model_def.bind(params, statistics)
    for _, part in nnx.iter_graph(module):
        if hasattr(part, "remat"):
            part.remat = "none"
    found: list[jax.Array] = []
    loops_unrolled = jax.disable_jit(getattr(program.config.model, "scan_layers", False))
    with loops_unrolled, watch(lambda one: found.append(take(one))):
        program.model_def.task.evaluate(module, batch)
    return found
