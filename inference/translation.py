"""Generates texts from texts with an encoder-decoder model: translation and similar tasks.

Axes: B batch, S source length, T target length, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import Tokenizer
from inference.beam_search import Answers, beam_search
from inference.compiled import CompiledFunction, next_power_of_two, rounded_up
from inference.predictors.predictor import Prediction
from inference.text import writable_tokens
from parallel.axes import replicated
from parallel.feeding import gather_batch

MOST_ROWS = 64
"""Maximum number of texts in a batch."""

SHORTEST_SOURCE = 8
"""Smallest number of tokens that sources are padded to."""

ALWAYS_ALLOWED = 10
"""Number of tokens that an answer may have in addition to `answer_length_ratio`."""


class Translator:
    """Answers texts by beam search, with models sharded over `mesh` by `rules`.

    max_source_length, max_length: largest number of tokens of a source and of a target in the
        training data, including the separator at the end.
    answer_length_ratio: an answer may have this many tokens for each token of its source, plus
        `ALWAYS_ALLOWED`.
    beam_size, length_penalty: as in `beam_search`.

    Numbers of texts and tokens are rounded up to powers of two, so that few programs are compiled.

    row_sizes: numbers of texts that are used in place of small powers of two, in rising order.
    """

    row_sizes: Sequence[int] = ()

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        beam_size: int,
        length_penalty: float,
        answer_length_ratio: float,
        max_source_length: int,
        max_length: int,
        mesh: Mesh,
        rules: Mapping[str, Sequence[str]],
    ):
        self._tokenizer = tokenizer
        self._beam_size, self._length_penalty = beam_size, length_penalty
        self._ratio, self._max_length = answer_length_ratio, max_length
        self.longest = max_source_length - 1  # tokens of a text, before the separator
        self._writable_V = writable_tokens(tokenizer)
        self._search = CompiledFunction(
            self._searched,
            mesh=mesh,
            rules=rules,
            out_shardings=replicated(mesh),  # Every host reads all answers.
        )

    def predict_batch(self, module: nnx.Module, batch: Mapping[str, Any]) -> list[Prediction]:
        """Return the answer for each row except padding (see `BatchPredictor`)."""
        best = self._answers(module, batch["source"], batch["source_segments"])
        weights = gather_batch({"weights": batch["weights"]})["weights"]
        return [self._prediction(best, row) for row in _real_rows(weights)]

    def references(self, batch: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return `source` and `reference` for each row except padding (see `BatchPredictor`)."""
        sources = (batch["source"], batch["source_segments"])
        targets = (batch["targets"], batch["weights"])
        return [
            {"source": self._text(row, *sources), "reference": self._text(row, *targets)}
            for row in _real_rows(batch["weights"])
        ]

    def translate(self, module: nnx.Module, texts: Sequence[str]) -> list[Prediction]:
        """Return the answer to each of `texts`, in order.

        Only the first `longest` tokens of a text are read. A blank text gets an empty answer.
        """
        return self.translate_sources(module, self.sources(texts))

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens that the model reads of each of `texts`; none for a blank text."""
        encoded = self._tokenizer.encode_many(texts)
        separator = self._tokenizer.separator_id
        return [
            [*ids[: self.longest].tolist(), separator] if text.strip() else []
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def translate_sources(
        self, module: nnx.Module, sources: Sequence[Sequence[int]]
    ) -> list[Prediction]:
        """Return the answer to each of `sources`, in order. They come from the method `sources`."""
        groups: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            if source:
                groups.setdefault(self._padded_length(len(source)), []).append(index)
        answers = [Prediction("", 0.0)] * len(sources)
        for length, indices in sorted(groups.items()):
            size = min(rounded_up(len(indices), self.row_sizes), MOST_ROWS)
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                source_BS, segments_BS = np.zeros((2, size, length), np.int32)
                for row, index in enumerate(part):
                    source_BS[row, : len(sources[index])] = sources[index]
                    segments_BS[row, : len(sources[index])] = 1
                best = self._answers(module, source_BS, segments_BS)
                for row, index in enumerate(part):
                    answers[index] = self._prediction(best, row)
        return answers

    def warm_up(self, module: nnx.Module) -> None:
        """Compile all programs that `translate` needs for the numbers of texts in `row_sizes`."""
        lengths = {self._padded_length(length) for length in range(1, self.longest + 2)}
        for length in sorted(lengths):
            for rows in self.row_sizes:
                self._answers(module, *np.ones((2, rows, length), np.int32))

    def _padded_length(self, tokens: int) -> int:
        return min(max(next_power_of_two(tokens), SHORTEST_SOURCE), self.longest + 1)

    def _answers(self, module: nnx.Module, source_BS: Any, segments_BS: Any) -> Answers:
        """Return the best answer of each row, on the host."""
        return jax.device_get(self._search(module, source_BS, segments_BS))

    def _searched(self, module: Any, source_BS: jax.Array, segments_BS: jax.Array) -> Answers:
        def limit(length: Any, numpy: Any) -> Any:
            of_source = numpy.ceil(numpy.float32(self._ratio) * numpy.float32(length))
            return numpy.minimum(of_source + ALWAYS_ALLOWED, self._max_length).astype(numpy.int32)

        return beam_search(
            module,
            module.encode(source_BS, segments_BS=segments_BS),
            limit(jnp.sum(segments_BS != 0, axis=1), jnp),
            self._writable_V,
            self._length_penalty,
            beam_size=self._beam_size,
            max_length=int(limit(source_BS.shape[1], np)),
            separator_id=self._tokenizer.separator_id,
        )

    def _prediction(self, best: Answers, row: int) -> Prediction:
        ids = best.tokens[row, : best.length[row]]
        return Prediction(self._decoded(ids), float(best.score[row]))

    def _text(self, row: int, ids_BT: np.ndarray, weights_BT: np.ndarray) -> str:
        return self._decoded(ids_BT[row][weights_BT[row] > 0])

    def _decoded(self, ids: np.ndarray | jax.Array) -> str:
        return self._tokenizer.decode(ids[ids != self._tokenizer.separator_id])


def _real_rows(weights_BT: np.ndarray) -> np.ndarray:
    """Return the indices of the rows that are not padding."""
    return np.flatnonzero(np.any(weights_BT > 0, axis=1))
