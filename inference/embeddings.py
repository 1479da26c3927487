"""Computes text embeddings: unit vectors, which are close to each other for similar texts.

Axes: B batch, T length, D width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import NDArray

from data.codecs.tokenizers import Tokenizer
from inference.compiled import CompiledFunction, next_power_of_two, rounded_up
from training.model_def import ModelDef

SHORTEST = 32
"""Smallest number of tokens that a batch is padded to."""

CHUNK = 128
"""Number of tokens that a model with unlimited context reads at once, if a text has more than
`SHORTEST`. Longer texts are read in several parts, so that few programs are compiled."""

ROW_SIZES = (1, 16)
"""Numbers of rows that batches are padded to."""


class TextEmbedding:
    """Embeds a text as the mean of the model's last hidden states (the input of its head) over all
    tokens of the text, including those that open and close every text, such as [CLS] and [SEP]. The
    mean is computed in float32, and divided by its Euclidean norm.

    In a decoder, the state at a token depends only on that token and earlier ones; in a masked
    language model or a classifier, it depends on the whole text.

    longest: the largest number of tokens that the model attends to; None if that is unlimited.
    is_closed: whether the model reads the tokens that close a text.
    width: D.
    row_sizes: numbers of rows that batches are padded to, in rising order.

    Lengths are padded to powers of two.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        longest: int | None,
        is_closed: bool,
        width: int,
        mesh: Mesh,
        rules: Mapping[str, Sequence[str]],
        row_sizes: Sequence[int] = ROW_SIZES,
    ):
        self._tokenizer, self.longest, self._is_closed = tokenizer, longest, is_closed
        self.width, self._row_sizes = width, row_sizes
        self._first = CompiledFunction(
            _first_sums if longest is None else _whole_sums, mesh=mesh, rules=rules
        )
        self._next = CompiledFunction(_next_sums, mesh=mesh, rules=rules)

    @classmethod
    def of(
        cls,
        model_def: ModelDef,
        module: Any,
        tokenizer: Tokenizer,
        row_sizes: Sequence[int] = ROW_SIZES,
    ) -> Self:
        """Build a `TextEmbedding` for models with the definition `model_def`: decoders, masked
        language models or text classifiers.

        module: any one of these models; its weights are not used.
        """
        writes = model_def.config.task.model_output == "next_tokens"
        is_unlimited = writes and not module.has_bounded_context
        return cls(
            tokenizer,
            longest=None if is_unlimited else model_def.data_spec.require("max_length"),
            is_closed=not writes,
            width=module.backbone.features,
            mesh=model_def.mesh,
            rules=model_def.rules,
            row_sizes=row_sizes,
        )

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the tokens of a text, int32 [T], including the tokens that open every text and, if
        the model reads them, those that close it. Empty if the text itself has no tokens."""
        ids = self._tokenizer.encode(text)
        if not len(ids):
            return ids
        if self._is_closed:
            return self._tokenizer.framed(ids)
        return np.concatenate([self._tokenizer.opening, ids])

    def predict(
        self, module: nnx.Module, inputs: Iterable[Sequence[int] | NDArray[np.int32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Return the embedding of each text in order: a unit vector, float32 [D].

        inputs: the tokens of each text, at least one and at most `longest`. A vector is not finite
        if the model's states are not.
        """
        tokens = [np.asarray(ids, np.int32) for ids in inputs]
        groups: dict[int, list[int]] = {}
        for index, ids in enumerate(tokens):
            groups.setdefault(self._padded_length(len(ids)), []).append(index)
        vectors: dict[int, NDArray[np.float32]] = {}
        for length, indices in sorted(groups.items()):
            for start in range(0, len(indices), self._row_sizes[-1]):
                part = indices[start : start + self._row_sizes[-1]]
                sums_BD = self._sums(module, [tokens[index] for index in part], length)
                for index, sum_D in zip(part, sums_BD, strict=True):
                    vectors[index] = _unit(sum_D)
        return (vectors[index] for index in range(len(tokens)))

    def warm_up(self, module: nnx.Module) -> None:
        """Compile all programs that `predict` needs for any inputs."""
        longest = 2 * CHUNK if self.longest is None else self.longest
        lengths = {self._padded_length(length) for length in range(1, longest + 1)}
        for length in sorted(lengths):
            for rows in self._row_sizes:
                self._sums(module, [np.zeros(1, np.int32)] * rows, length)

    def _padded_length(self, tokens: int) -> int:
        length = max(next_power_of_two(tokens), SHORTEST)
        if self.longest is not None:
            return min(length, self.longest)
        return length if length == SHORTEST else max(length, CHUNK)

    def _sums(
        self, module: nnx.Module, texts: Sequence[NDArray[np.int32]], length: int
    ) -> NDArray[np.float32]:
        """Return the sum of the hidden states of each text, float32 [B, D].

        length: the number of tokens that the texts are padded to.
        """
        rows = rounded_up(len(texts), self._row_sizes)
        tokens_BT, segments_BT = np.zeros((2, rows, length), np.int32)
        for row, ids in enumerate(texts):
            tokens_BT[row, : len(ids)], segments_BT[row, : len(ids)] = ids, 1
        size = length if self.longest is not None else min(length, CHUNK)
        sums_BD, state = self._first(module, tokens_BT[:, :size], segments_BT[:, :size])
        for start in range(size, length, size):
            chunk = np.s_[:, start : start + size]
            sums_BD, state = self._next(
                module, tokens_BT[chunk], segments_BT[chunk], sums_BD, state
            )
        return np.asarray(sums_BD)[: len(texts)]


def _unit(sum_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the unit vector in the direction of `sum_D`; zeros if `sum_D` is zero."""
    exact_D = sum_D.astype(np.float64)
    norm = np.linalg.norm(exact_D)
    return (exact_D / (norm if norm != 0 else 1.0)).astype(np.float32)


def _whole_sums(
    module: Any, tokens_BT: jax.Array, segments_BT: jax.Array
) -> tuple[jax.Array, None]:
    x_BTD, _ = module.hidden(tokens_BT, segments_BT=segments_BT)
    return _over_tokens(x_BTD, segments_BT), None


def _first_sums(module: Any, tokens_BT: jax.Array, segments_BT: jax.Array) -> tuple[jax.Array, Any]:
    state = module.initial_state(len(tokens_BT), 1)  # Room has no effect without attention.
    x_BTD, state = module.hidden(tokens_BT, segments_BT=segments_BT, state=state)
    return _over_tokens(x_BTD, segments_BT), state


def _next_sums(
    module: Any, tokens_BT: jax.Array, segments_BT: jax.Array, sums_BD: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    x_BTD, state = module.hidden(tokens_BT, segments_BT=segments_BT, state=state)
    return sums_BD + _over_tokens(x_BTD, segments_BT), state


def _over_tokens(x_BTD: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """Return the sum over the positions that are not padding, float32 [B, D]."""
    real_BT1 = segments_BT[:, :, None] != 0
    return jnp.sum(jnp.where(real_BT1, x_BTD.astype(jnp.float32), 0.0), axis=1)
