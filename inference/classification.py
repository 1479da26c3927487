"""The label of a picture, of a recording, or of a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from configs import UsageError
from data.codecs import LogMel, Tokenizer, decode_picture
from inference.recordings import padded, read_recordings

MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Classified:
    """The likeliest class of a file or a text, and the probability of each class."""

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
    return _classify(
        module,
        paths,
        classes,
        lambda model, images: model(images, train=False),
        lambda part: (images[part],),
    )


def classify_recordings(
    module: nnx.Module, paths: Sequence[str], *, log_mel: LogMel, classes: Sequence[str]
) -> Iterator[Classified]:
    """What the classifier of sound `module` makes of each file, in order.

    Raises `configs.UsageError` for a file that is no recording, before any is classified.
    """
    recordings = read_recordings(paths, log_mel)
    return _classify(
        module,
        paths,
        classes,
        lambda model, frames, segments: model.classify(frames, segments_BT=segments),
        lambda part: padded(recordings[part]),
    )


def classify_texts(
    module: nnx.Module,
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    length: int,
    classes: Sequence[str],
) -> Iterator[Classified]:
    """What the text classifier `module` makes of each text, in order, between what the tokenizer
    puts around each; of what is longer than `length` tokens, of the first ones. Raises
    `configs.UsageError` for a text without any."""
    tokens, real = np.zeros((2, len(texts), length), np.int32)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text)
        if not len(ids):
            raise UsageError(f"a text has no token: {text!r}")
        ids = tokenizer.framed(ids, length)
        tokens[row, : len(ids)], real[row, : len(ids)] = ids, 1
    return _classify(
        module,
        texts,
        classes,
        lambda model, tokens, real: model.classify(tokens, segments_BT=real),
        lambda part: (tokens[part], real[part]),
    )


def _classify(
    module: nnx.Module,
    names: Sequence[str],
    classes: Sequence[str],
    logits: Callable[..., jax.Array],
    inputs: Callable[[slice], Sequence[np.ndarray]],
) -> Iterator[Classified]:
    """`logits(module, *inputs(part))` has a row for each of a part of `names`, or more."""
    graph, arrays = nnx.split(module)

    @jax.jit
    def probabilities(arrays, *inputs):
        return jax.nn.softmax(logits(nnx.merge(graph, arrays), *inputs), axis=-1)

    for start in range(0, len(names), MOST_AT_ONCE):
        part = slice(start, start + MOST_AT_ONCE)
        found = np.asarray(probabilities(arrays, *inputs(part)))[: len(names[part])]
        for name, scores in zip(names[part], found.tolist(), strict=True):
            named = dict(zip(classes, scores, strict=True))
            yield Classified(name, max(named, key=named.__getitem__), named)


def _read(path: str, shape: tuple[int, int, int], crop_ratio: float) -> np.ndarray:
    try:
        return decode_picture(Path(path).read_bytes(), tuple(shape), crop_ratio=crop_ratio)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {reason}") from None
