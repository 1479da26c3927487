"""The label of a picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from configs import UsageError
from data.codecs import decode_picture

MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Classified:
    """The likeliest class of a picture file, and the probability of each class."""

    input: str
    label: str
    scores: dict[str, float]

    def likeliest(self, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, the first one first."""
        return sorted(self.scores.items(), key=lambda item: -item[1])[:count]


def classify(
    module: nnx.Module,
    paths: Sequence[str],
    *,
    shape: tuple[int, int, int],
    classes: Sequence[str],
    crop_ratio: float = 1.0,
) -> Iterator[Classified]:
    """What the picture classifier `module` makes of each file, in order.

    Pictures are brought to `shape` (height, width, channels) as those of evaluation are, of which
    `crop_ratio` of the short side is seen.
    Raises `configs.UsageError` for a file that is no picture, before any is classified.
    """
    images = np.stack([_read(path, shape, crop_ratio) for path in paths])
    graph, arrays = nnx.split(module)

    @jax.jit
    def probabilities(arrays, images_BHWC):
        return jax.nn.softmax(nnx.merge(graph, arrays)(images_BHWC, train=False), axis=-1)

    for start in range(0, len(paths), MOST_AT_ONCE):
        part = slice(start, start + MOST_AT_ONCE)
        for path, scores in zip(paths[part], probabilities(arrays, images[part]), strict=True):
            named = dict(zip(classes, np.asarray(scores).tolist(), strict=True))
            yield Classified(path, max(named, key=named.__getitem__), named)


def _read(path: str, shape: tuple[int, int, int], crop_ratio: float) -> np.ndarray:
    try:
        return decode_picture(Path(path).read_bytes(), tuple(shape), crop_ratio=crop_ratio)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {reason}") from None
