"""Predictors that label texts, images and recordings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from configs.errors import UsageError
from configs.json_text import json_text
from configs.schema.pictures import Pictures
from inference.predictors.predictor import FilePredictor, Predictor, PromptPredictor, Warn, ignore

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from data.codecs.sound import RecordingReader
    from data.codecs.tokenizers import Tokenizer
    from training.model_def import ModelDef

BATCH_SIZE = 64
"""Maximum number of inputs in a batch."""

LABELS_SHOWN = 5


@dataclass(frozen=True)
class Classified:
    """The result for a file or text: its likeliest class, and the probability of each class."""

    input: str
    label: str
    scores: dict[str, float]


class _Classification(Predictor[Any, Classified]):
    """Base class of the predictors that label their inputs."""

    def render(self, output: Classified, *, as_json: bool) -> str:
        """Return the label, a tab, and the likeliest labels with their probabilities; or JSON."""
        if as_json:
            return json_text(vars(output))
        likeliest = sorted(output.scores.items(), key=lambda item: -item[1])[:LABELS_SHOWN]
        return f"{output.label}\t{' '.join(f'{name}={p:.4f}' for name, p in likeliest)}"


class TextClassification(_Classification, PromptPredictor[Classified]):
    """Labels each text. Only the first `length` tokens of a text are read."""

    def __init__(self, tokenizer: "Tokenizer", length: int, classes: Sequence[str]):
        self._tokenizer, self._length = tokenizer, length
        self._classifier = Classifier(
            classes, lambda model, tokens, real: model.classify(tokens, segments_BT=real)
        )

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        spec = model_def.data_spec
        assert tokenizer is not None
        return cls(tokenizer, spec.require("max_length"), spec.require("classes"))

    def predict(
        self, module: "nnx.Module", inputs: Iterable[str], *, warn: Warn = ignore
    ) -> Iterator[Classified]:
        """Label the texts, in order. Raises `UsageError` for a text without tokens."""
        texts = list(inputs)
        read = [
            self.encode(text, place=f"prompt {number}", warn=warn)
            for number, text in enumerate(texts, start=1)
        ]
        for start in range(0, len(texts), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            yield from self.classify(module, texts[part], read[part])

    def encode(self, text: str, *, place: str, warn: Warn = ignore) -> np.ndarray:
        """Return the tokens that the model reads of a text, int32 [tokens]. place: the name of the
        text in a warning. Raises `UsageError` for a text without tokens."""
        ids = self._tokenizer.encode(text)
        if not len(ids):
            raise UsageError(f"a text has no token: {text!r}")
        if (count := len(self._tokenizer.framed(ids))) > self._length:
            warn(f"{place} has {count} tokens, of which this model reads the first {self._length}")
        return self._tokenizer.framed(ids, self._length)

    def classify(
        self, module: "nnx.Module", texts: Sequence[str], read: Sequence[np.ndarray]
    ) -> list[Classified]:
        """Label some texts, at most `BATCH_SIZE`. read: the tokens of each, from `encode`."""
        tokens, real = np.zeros((2, len(texts), self._length), np.int32)
        for row, ids in enumerate(read):
            tokens[row, : len(ids)], real[row, : len(ids)] = ids, 1
        return self._classifier(module, texts, tokens, real)

    def warm_up(self, module: "nnx.Module", most_rows: int) -> None:
        """Compile all programs that `classify` needs for 1 to `most_rows` texts."""
        for rows in range(1, most_rows + 1):
            self.classify(module, [""] * rows, [np.zeros(1, np.int32)] * rows)


class PictureClassification(_Classification, FilePredictor[Classified]):
    """Labels each image, cropped and resized as in evaluation.

    shape: height, width and channels. view: arguments of `decode_picture`, such as `crop_ratio`.
    """

    required: ClassVar = {"input": "a picture file"}
    input_kind = "a picture"
    batch_size = BATCH_SIZE

    def __init__(
        self, shape: tuple[int, int, int], classes: Sequence[str], view: Mapping[str, Any]
    ):
        from data.codecs.pictures import decode_picture

        self.shape = shape
        self.read = partial(decode_picture, shape=shape, **view)
        self._classifier = Classifier(classes, lambda model, images: model(images, train=False))

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        spec, data = model_def.data_spec, model_def.config.data
        assert isinstance(data, Pictures)
        return cls(spec.require("image_shape"), spec.require("classes"), data.view)

    def predict_contents(
        self, module: "nnx.Module", names: Sequence[str], contents: Sequence[np.ndarray]
    ) -> list[Classified]:
        return self._classifier(module, names, np.stack(contents))


class RecordingClassification(_Classification, FilePredictor[Classified]):
    """Labels each recording."""

    required: ClassVar = {"input": "a recording file"}
    input_kind = "a recording"
    batch_size = BATCH_SIZE
    read: "RecordingReader"

    def __init__(self, read: "RecordingReader", classes: Sequence[str]):
        self.read = read
        self._classifier = Classifier(
            classes, lambda model, frames, real: model.classify(frames, segments_BT=real)
        )

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from inference.recordings import recording_reader

        spec = model_def.data_spec
        return cls(recording_reader(model_def.config.data, spec), spec.require("classes"))

    def predict_contents(
        self, module: "nnx.Module", names: Sequence[str], contents: Sequence[np.ndarray]
    ) -> list[Classified]:
        from inference.recordings import in_groups

        def classify(group: Sequence[int], *arrays: np.ndarray) -> list[Classified]:
            return self._classifier(module, [names[index] for index in group], *arrays)

        return in_groups(contents, BATCH_SIZE, classify)


class Classifier:
    """Classifies the rows of arrays. logits(module, *arrays): returns a row of logits for each row
    of the arrays."""

    def __init__(self, classes: Sequence[str], logits: "Callable[..., jax.Array]"):
        import jax

        from inference.compiled import CompiledFunction

        self._classes = classes
        self._probabilities = CompiledFunction(
            lambda module, *rows: jax.nn.softmax(logits(module, *rows), axis=-1)
        )

    def __call__(
        self, module: "nnx.Module", names: Sequence[str], *rows: np.ndarray
    ) -> list[Classified]:
        """Classify one row for each input in `names`. Further rows are padding."""
        padded = [_padded(one) for one in rows]
        probabilities = np.asarray(self._probabilities(module, *padded))[: len(names)]
        scores = [dict(zip(self._classes, row, strict=True)) for row in probabilities.tolist()]
        return [
            Classified(name, max(of, key=of.__getitem__), of)
            for name, of in zip(names, scores, strict=True)
        ]


def _padded(rows: np.ndarray) -> np.ndarray:
    """Pad the number of rows to a power of two with rows of zeros, so that few programs are
    compiled."""
    from inference.compiled import next_power_of_two

    padded = np.zeros((next_power_of_two(len(rows)), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded
