"""The predictor that fills gaps in texts with a masked language model.

Axes: B batch, T length, G gaps of the batch, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from configs.errors import UsageError
from configs.json_text import json_text
from data.codecs.gaps import GapCodec, Piece, joined_ids
from inference.predictors.predictor import PromptPredictor, Warn, ignore

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from training.model_def import ModelDef

MASK = "[MASK]"
"""Marks one missing token in a prompt."""

CANDIDATES = 5

MOST_ROWS, MOST_GAPS = 32, 256
"""Largest number of prompts and of gaps in a batch. A prompt with more gaps is its own batch."""


@dataclass(frozen=True)
class Gapped:
    """A prompt as the model reads it.

    pieces: the parts around its gaps.
    tokens: the ids of the whole prompt, int32 [T].
    """

    prompt: str
    pieces: Sequence[Piece]
    tokens: np.ndarray

    @property
    def gaps(self) -> int:
        return len(self.pieces) - 1


@dataclass(frozen=True)
class Filled:
    """The result for a prompt.

    text: the prompt with the likeliest token in each gap.
    candidates: for each gap, the likeliest tokens, each with its probability as `score`.
    """

    prompt: str
    text: str
    candidates: list[list[dict[str, Any]]]


class GapFilling(PromptPredictor[Filled]):
    """Fills each `MASK` of a prompt with the likeliest token.

    length: the largest number of tokens that the model reads.
    row_sizes, gap_sizes: numbers of prompts and of gaps that batches are padded to, in rising
        order; larger ones are powers of two.
    """

    row_sizes: Sequence[int] = ()
    gap_sizes: Sequence[int] = ()

    may_span_lines = True

    def __init__(self, tokenizer: "Tokenizer", length: int):
        from inference.compiled import CompiledFunction

        self._tokenizer, self._length = tokenizer, length
        self._probabilities = CompiledFunction(_probabilities)

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        assert tokenizer is not None
        return cls(tokenizer, model_def.data_spec.require("max_length"))

    def predict(
        self, module: Any, inputs: Iterable[str], *, warn: Warn = ignore
    ) -> Iterator[Filled]:
        """Fill in the prompts, in order.

        Raises `UsageError` for a prompt without a gap or with too many tokens, before the first
        prompt is filled in.
        """
        yield from self.fill(module, [self.encode(module, prompt) for prompt in inputs])

    def encode(self, module: Any, prompt: str) -> Gapped:
        """Return a prompt as tokens. Raises `UsageError` if it has no gap or too many tokens."""
        texts = _around_gaps(prompt)
        # Refuse what is surely too long before the slower encoding around gaps.
        count = sum(len(ids) for ids in self._tokenizer.encode_many(texts))
        self._check_length(count, 2 * self._length)
        self._check_length(len(texts) - 1, self._length)
        pieces = self._codec.encode(texts)
        ids = joined_ids(pieces, [_mask(module)] * (len(pieces) - 1))
        tokens = self._tokenizer.framed(np.array(ids, np.int32))
        self._check_length(len(tokens), self._length)
        return Gapped(prompt, pieces, tokens)

    def fill(self, module: Any, prompts: Sequence[Gapped]) -> Iterator[Filled]:
        """Fill in the prompts, in order."""
        for start, end in _batches([one.gaps for one in prompts]):
            part = prompts[start:end]
            of_each = self._in_gaps(module, [one.tokens for one in part], _mask(module))
            for one, probabilities_GV in zip(part, of_each, strict=True):
                yield _filled(one.prompt, self._codec, one.pieces, probabilities_GV)

    def warm_up(self, module: Any) -> None:
        """Compile all programs that `fill` needs for the numbers of prompts and of gaps in
        `row_sizes` and `gap_sizes`."""
        self._codec.encode([""])  # Builds the codec now, not at the first prompt.
        for rows in self.row_sizes:
            for gaps in self.gap_sizes:
                arrays = np.zeros((2, rows, self._length), np.int32)
                self._probabilities(module, *arrays, np.zeros((2, gaps), np.int32))

    @cached_property
    def _codec(self) -> GapCodec:
        return GapCodec(self._tokenizer)

    def render(self, output: Filled, *, as_json: bool) -> str:
        return json_text(vars(output)) if as_json else output.text

    def _check_length(self, count: int, most: int) -> None:
        if count > most:
            raise UsageError(
                f"a prompt has {count} tokens, and this model reads {self._length}: shorten it"
            )

    def _in_gaps(
        self, module: "nnx.Module", rows: Sequence[np.ndarray], mask: int
    ) -> list[np.ndarray]:
        """Return the probability of each token in each gap of each row, float32 [gaps, V]."""
        from inference.compiled import rounded_up

        # Few shapes, so that few programs are compiled.
        size = rounded_up(len(rows), self.row_sizes)
        tokens_BT, segments_BT = np.zeros((2, size, self._length), np.int32)
        for row, tokens in enumerate(rows):
            tokens_BT[row, : len(tokens)], segments_BT[row, : len(tokens)] = tokens, 1
        row_of_gap, place_of_gap = np.nonzero((tokens_BT == mask) & (segments_BT == 1))
        count = len(row_of_gap)
        gaps_2G = np.zeros((2, rounded_up(count, self.gap_sizes)), np.int32)
        gaps_2G[:, :count] = row_of_gap, place_of_gap
        probabilities_GV = np.asarray(self._probabilities(module, tokens_BT, segments_BT, gaps_2G))[
            :count, : self._tokenizer.vocabulary_size
        ]
        return [probabilities_GV[row_of_gap == row] for row in range(len(rows))]


def _probabilities(
    module: Any, tokens_BT: "jax.Array", segments_BT: "jax.Array", gaps_2G: "jax.Array"
) -> "jax.Array":
    """Return the probability of each token in each gap, float32 [G, V]. gaps_2G: the row and the
    position of each gap."""
    import jax

    x_BTD, _ = module.hidden(tokens_BT, segments_BT=segments_BT)
    rows_G, places_G = gaps_2G
    return jax.nn.softmax(module.head(x_BTD[rows_G, places_G][:, None])[:, 0], axis=-1)


def _mask(module: Any) -> int:
    """Return the id of a missing token: the model's last id, which the tokenizer does not have."""
    return module.vocabulary_size - 1


def _batches(gaps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each batch of prompts. gaps: their numbers of gaps."""
    start = 0
    while start < len(gaps):
        end, count = start + 1, gaps[start]
        while end < min(len(gaps), start + MOST_ROWS) and count + gaps[end] <= MOST_GAPS:
            count += gaps[end]
            end += 1
        yield start, end
        start = end


def _filled(
    prompt: str, codec: GapCodec, pieces: Sequence[Piece], probabilities_GV: np.ndarray
) -> Filled:
    """Fill each gap of a prompt with its likeliest token."""
    likeliest = np.argsort(-probabilities_GV, axis=1)[:, :CANDIDATES]
    best = likeliest[:, 0].tolist()
    candidates = [
        [
            {"token": codec.name_token(token, gap, pieces, best), "score": float(scores[token])}
            for token in tokens_of_gap.tolist()
        ]
        for gap, (tokens_of_gap, scores) in enumerate(zip(likeliest, probabilities_GV, strict=True))
    ]
    return Filled(prompt, codec.fill(pieces, best), candidates)


def _around_gaps(prompt: str) -> list[str]:
    """Return the texts around the gaps of a prompt; raise `UsageError` if it has no gap."""
    texts = prompt.split(MASK)
    if len(texts) == 1:
        raise UsageError(f"{prompt!r} has no {MASK}: write it where a token is left out")
    return texts
