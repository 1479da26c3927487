"""Batches of invented data, of the shapes that a configuration's own data would have."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from configs import Config


def sizes_of(
    config: Config, *, vocabulary_size: int = 67, image_shape: tuple[int, int, int] = (8, 8, 1)
) -> dict[str, Any]:
    """What the data would decide of the model: `sizes` of `training.build_program`."""
    if config.task.name == "classification":
        return {"num_classes": 10, "image_shape": image_shape}
    return {"vocabulary_size": vocabulary_size, "max_length": config.data.sequence_length}


def batch(
    config: Config, sizes: Mapping[str, Any], step: int, *, rows: int | None = None
) -> dict[str, np.ndarray]:
    """Random rows (default: a global batch) that depend on the step alone."""
    random, B = np.random.default_rng(step), rows or config.data.global_batch_size
    if config.task.name == "classification":
        return {
            "image": random.integers(0, 256, (B, *sizes["image_shape"]), dtype=np.uint8),
            "label": random.integers(0, sizes["num_classes"], B, dtype=np.int32),
            "weights": np.ones(B, np.float32),
        }
    T = config.data.sequence_length
    tokens = random.integers(0, sizes["vocabulary_size"], (B, T + 1), dtype=np.int32)
    weights = np.ones((B, T), np.float32)
    made = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
    if not config.data.cross_document_attention:
        starts = random.random((B, T)) < 2 / T
        made["segments"] = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    return made
