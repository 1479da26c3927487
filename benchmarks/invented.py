"""Synthetic batches with the shapes of a configuration's own data, and train steps on them."""

import numpy as np

from configs.data_spec import DataSpec
from configs.schema.config import Config


def invented_spec(
    config: Config,
    *,
    vocabulary_size: int = 67,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (8, 8, 1),
    max_frames: int = 24,
    max_labels: int = 4,
) -> DataSpec:
    """Return a `DataSpec` that the configuration's own data could have."""
    if config.data.modality == "pictures":
        return DataSpec(num_classes=num_classes, image_shape=image_shape)
    if config.data.modality.endswith("_sound"):
        targets = {"vocabulary_size": vocabulary_size, "max_labels": max_labels}
        if config.task.model_output == "classes":
            targets = {"num_classes": num_classes}
        return DataSpec(num_mels=config.data.num_mels, max_frames=max_frames, **targets)
    if config.data.modality == "text_pairs":
        return DataSpec(
            vocabulary_size=vocabulary_size,
            max_source_length=config.data.max_source_length,
            max_length=config.data.max_target_length,
        )
    return DataSpec(
        vocabulary_size=vocabulary_size,
        max_length=config.data.sequence_length,
        num_classes=num_classes if config.task.model_output == "classes" else None,
    )


def batch(
    config: Config,
    spec: DataSpec,
    step: int,
    *,
    rows: int | None = None,
    shortest: float | None = None,
) -> dict[str, np.ndarray]:
    """Return a batch of random rows (default: a global batch), which depends only on `step`.

    shortest: the smallest length of recordings, transcripts and pairs of texts, as a share of the
        largest. Default: half of it for recordings, 0 for transcripts, 1 token for texts.
    """
    random, B = np.random.default_rng(step), rows or config.data.global_batch_size
    weights = np.ones(B, np.float32)
    if config.task.model_output == "classes":
        labels = random.integers(0, spec.num_classes, B, dtype=np.int32)
        labelled = {"label": labels, "weights": weights}
    if config.data.modality == "pictures":
        image = random.integers(0, 256, (B, *spec.image_shape), dtype=np.uint8)
        return {"image": image, **labelled}
    if config.data.modality.endswith("_sound"):
        made = _frames(random, B, spec, shortest)
        if config.task.model_output == "classes":
            return made | labelled
        return made | _transcripts(random, B, spec, shortest) | {"weights": weights}
    if config.data.modality == "text_pairs":
        return _pairs(random, B, spec, shortest)
    T = config.data.sequence_length
    tokens = random.integers(0, spec.vocabulary_size, (B, T + 1), dtype=np.int32)
    if config.data.modality == "labelled_text":
        real = np.arange(T) < random.integers(1, T + 1, (B, 1))
        return {"tokens": tokens[:, :T], "segments": real.astype(np.int32), **labelled}
    weights = np.ones((B, T), np.float32)
    made = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
    if not config.data.cross_document_attention:
        starts = random.random((B, T)) < 2 / T
        made["segments"] = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    return made


def train_losses(program, state, spec: DataSpec, steps: int) -> list[float]:
    """Train for `steps` steps on synthetic batches; return the loss of each step."""
    from parallel.feeding import put_batch

    config, losses = program.config, []
    for step in range(steps):
        rows = batch(config, spec, step)
        placed = put_batch(rows, program.batch_sharding, config.data.global_batch_size)
        state, metrics = program.train_step(state, placed)
        losses.append(metrics.read()["loss"])
    return losses


def _real(
    random: np.random.Generator, B: int, T: int, least: int, shortest: float | None
) -> np.ndarray:
    """Return where rows of random lengths are real and not padding, bool [B, T].

    least: the smallest length if `shortest`, a share of T, is None.
    """
    if shortest is not None:
        least = round(shortest * T)
    return np.arange(T) < random.integers(least, T + 1, (B, 1))


def _frames(
    random: np.random.Generator, B: int, spec: DataSpec, shortest: float | None
) -> dict[str, np.ndarray]:
    """Return random recordings, padded to `max_frames` frames."""
    T = spec.max_frames
    frames = random.normal(size=(B, T, spec.num_mels)).astype(np.float32)
    real = _real(random, B, T, T // 2, shortest)
    return {"frames": frames * real[:, :, None], "segments": real.astype(np.int32)}


def _transcripts(
    random: np.random.Generator, B: int, spec: DataSpec, shortest: float | None
) -> dict[str, np.ndarray]:
    """Return random transcripts, padded to `max_labels`."""
    L = spec.max_labels
    labels = random.integers(0, spec.vocabulary_size, (B, L), dtype=np.int32)
    there = _real(random, B, L, 0, shortest)
    return {"labels": labels * there, "label_weights": there.astype(np.float32)}


def _pairs(
    random: np.random.Generator, B: int, spec: DataSpec, shortest: float | None
) -> dict[str, np.ndarray]:
    """Return random source and target texts, padded to their maximum lengths."""
    real, found = {}, {}
    for side, T in (("source", spec.max_source_length), ("targets", spec.max_length)):
        real[side] = _real(random, B, T, 1, shortest)
        found[side] = random.integers(1, spec.vocabulary_size, (B, T), dtype=np.int32)
        found[side] *= real[side]
    return {
        "source": found["source"],
        "source_segments": real["source"].astype(np.int32),
        "tokens": np.pad(found["targets"][:, :-1], ((0, 0), (1, 0))),
        "targets": found["targets"],
        "weights": real["targets"].astype(np.float32),
    }
