"""Tokens that are left out of a text, as a masked language model fills them in.

Axes: B batch, T length, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from configs.errors import UsageError
from data.codecs.gaps import GapCodec, Piece, joined_ids
from data.codecs.tokenizers import Tokenizer

MASK = "[MASK]"
"""Stands in a prompt for one token that is left out."""

CANDIDATES = 5


@dataclass(frozen=True)
class Filled:
    """A prompt with the likeliest token in each gap, and for each gap the likeliest ones with
    their probabilities."""

    prompt: str
    text: str
    candidates: list[list[dict[str, Any]]]


def fill_in(
    module: nnx.Module, prompts: Sequence[str], *, tokenizer: Tokenizer, length: int
) -> Iterator[Filled]:
    """What the masked language model `module` puts into each `MASK` of the prompts, in order.

    Raises `configs.UsageError` for a prompt without a gap, or longer than `length` tokens, before
    any is filled in.
    """
    codec, mask = GapCodec(tokenizer), module.vocabulary_size - 1
    pieces_of_each = [codec.encode(_around_gaps(prompt)) for prompt in prompts]
    rows = [_tokens(pieces, tokenizer, mask, length) for pieces in pieces_of_each]
    graph, arrays = nnx.split(module)

    @jax.jit
    def probabilities(arrays, tokens_BT, segments_BT):
        logits_BTV, _ = nnx.merge(graph, arrays)(tokens_BT, segments_BT=segments_BT)
        return jax.nn.softmax(logits_BTV, axis=-1)

    for prompt, pieces, tokens in zip(prompts, pieces_of_each, rows, strict=True):
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(tokens)] = tokens
        segments = (np.arange(length) < len(tokens)).astype(np.int32)[None]
        of_each = np.asarray(probabilities(arrays, padded, segments)[0, : len(tokens)])
        of_gaps = of_each[tokens == mask, : tokenizer.vocabulary_size]
        likeliest = np.argsort(-of_gaps, axis=1)[:, :CANDIDATES]
        best = likeliest[:, 0].tolist()
        candidates = [
            [
                {"token": codec.name_token(token, gap, pieces, best), "score": float(scores[token])}
                for token in tokens_of_gap.tolist()
            ]
            for gap, (tokens_of_gap, scores) in enumerate(zip(likeliest, of_gaps, strict=True))
        ]
        yield Filled(prompt, codec.fill(pieces, best), candidates)


def _around_gaps(prompt: str) -> list[str]:
    """What stands around the gaps; raises `UsageError` where there is none."""
    texts = prompt.split(MASK)
    if len(texts) == 1:
        raise UsageError(f"{prompt!r} has no {MASK}: write it where a token is left out")
    return texts


def _tokens(pieces: Sequence[Piece], tokenizer: Tokenizer, mask: int, length: int) -> np.ndarray:
    """The ids of a whole prompt, int32 [T]."""
    ids = joined_ids(pieces, [mask] * (len(pieces) - 1))
    tokens = tokenizer.framed(np.array(ids, np.int32))
    if len(tokens) > length:
        raise UsageError(
            f"a prompt has {len(tokens)} tokens, and this model reads {length}: shorten it"
        )
    return tokens
