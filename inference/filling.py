"""Tokens that are left out of a text, as a masked language model fills them in.

Axes: B batch, T length, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from configs import UsageError
from data.codecs import Tokenizer

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
    rows = [_encode(prompt, tokenizer, module.vocabulary_size - 1, length) for prompt in prompts]
    graph, arrays = nnx.split(module)

    @jax.jit
    def probabilities(arrays, tokens_BT, segments_BT):
        logits_BTV, _ = nnx.merge(graph, arrays)(tokens_BT, segments_BT=segments_BT)
        return jax.nn.softmax(logits_BTV, axis=-1)

    for prompt, tokens in zip(prompts, rows, strict=True):
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(tokens)] = tokens
        segments = (np.arange(length) < len(tokens)).astype(np.int32)[None]
        of_each = np.asarray(probabilities(arrays, padded, segments)[0, : len(tokens)])
        candidates, pieces = [], prompt.split(MASK)
        text = pieces[0]
        gaps = np.flatnonzero(tokens == module.vocabulary_size - 1)
        for gap, after in zip(gaps, pieces[1:], strict=True):
            likeliest = np.argsort(-of_each[gap, : tokenizer.vocabulary_size])[:CANDIDATES]
            named = [(tokenizer.decode([int(one)]), float(of_each[gap, one])) for one in likeliest]
            candidates.append([{"token": token, "score": score} for token, score in named])
            token = named[0][0]  # may begin with the space before a word: not written twice
            text = text.removesuffix(" ") if token.startswith(" ") else text
            text += token + after
        yield Filled(prompt, text, candidates)


def _encode(prompt: str, tokenizer: Tokenizer, mask: int, length: int) -> np.ndarray:
    pieces = prompt.split(MASK)
    if len(pieces) == 1:
        raise UsageError(f"{prompt!r} has no {MASK}: write it where a token is left out")
    *others, last = pieces
    # The space before a gap is most often a part of the token that is missing.
    encoded = [tokenizer.encode(piece.removesuffix(" ")) for piece in others]
    tokens = tokenizer.encode(last)
    for before in reversed(encoded):
        tokens = np.concatenate([before, [mask], tokens]).astype(np.int32)
    tokens = tokenizer.framed(tokens)
    if len(tokens) > length:
        raise UsageError(
            f"a prompt has {len(tokens)} tokens, and this model reads {length}: shorten it"
        )
    return tokens
