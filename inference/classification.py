"""The label of a picture, of a recording, or of a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from configs.errors import UsageError
from data.codecs.pictures import decode_picture
from data.codecs.tokenizers import Tokenizer
from inference.files import Unreadable, answer_files
from inference.on_mesh import rounded_up
from inference.recordings import in_groups

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
) -> Iterator[Classified | Unreadable]:
    """What the picture classifier `module` makes of each file, in order.

    Pictures are brought to `shape` (height, width, channels) as those of evaluation are, of which
    `crop_ratio` of the short side is seen.
    """
    classifier = _Classifier(module, classes, lambda model, images: model(images, train=False))

    def answer(names: Sequence[str], pictures: Sequence[np.ndarray]) -> list[Classified]:
        return classifier(names, _filled_up(np.stack(pictures)))

    decode = partial(decode_picture, shape=tuple(shape), crop_ratio=crop_ratio)
    return answer_files(paths, decode, answer, MOST_AT_ONCE)


def classify_recordings(
    module: nnx.Module,
    paths: Sequence[str],
    *,
    read: Callable[[bytes], np.ndarray],
    classes: Sequence[str],
) -> Iterator[Classified | Unreadable]:
    """What the classifier of sound `module` makes of each file, in order. read: see
    `recording_reader`."""
    classifier = _Classifier(
        module,
        classes,
        lambda model, frames, segments: model.classify(frames, segments_BT=segments),
    )

    def answer(names: Sequence[str], recordings: Sequence[np.ndarray]) -> list[Classified]:
        def of_group(group, *inputs):
            return classifier([names[index] for index in group], *inputs)

        return in_groups(recordings, MOST_AT_ONCE, of_group)

    return answer_files(paths, read, answer, MOST_AT_ONCE)


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
    classifier = _Classifier(
        module, classes, lambda model, tokens, real: model.classify(tokens, segments_BT=real)
    )
    for start in range(0, len(texts), MOST_AT_ONCE):
        part = slice(start, start + MOST_AT_ONCE)
        yield from classifier(texts[part], _filled_up(tokens[part]), _filled_up(real[part]))


class _Classifier:
    """`logits(module, *inputs)` has a row for each of the names, or more."""

    def __init__(
        self, module: nnx.Module, classes: Sequence[str], logits: Callable[..., jax.Array]
    ):
        graph, self._arrays = nnx.split(module)
        self._classes = classes

        @jax.jit
        def probabilities(arrays: Any, *inputs: jax.Array) -> jax.Array:
            return jax.nn.softmax(logits(nnx.merge(graph, arrays), *inputs), axis=-1)

        self._probabilities = probabilities

    def __call__(self, names: Sequence[str], *inputs: np.ndarray) -> list[Classified]:
        found = np.asarray(self._probabilities(self._arrays, *inputs))[: len(names)]
        every = [dict(zip(self._classes, scores, strict=True)) for scores in found.tolist()]
        return [
            Classified(name, max(scores, key=scores.__getitem__), scores)
            for name, scores in zip(names, every, strict=True)
        ]


def _filled_up(rows: np.ndarray) -> np.ndarray:
    """With rows of zeros up to a power of two, so that few programs are compiled."""
    filled = np.zeros((rounded_up(len(rows)), *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled
