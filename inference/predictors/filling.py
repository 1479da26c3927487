"""The predictor that fills gaps in texts with a masked language model.

Axes: B batch, T length, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Filled:
    """The result for a prompt.

    text: the prompt with the likeliest token in each gap. candidates: for each gap, the likeliest
    tokens, each with its probability as `score`.
    """

    prompt: str
    text: str
    candidates: list[list[dict[str, Any]]]


class GapFilling(PromptPredictor[Filled]):
    """Fills each `MASK` of a prompt with the likeliest token.

    length: the largest number of tokens that the model reads.
    """

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
        prompts, tokenizer = list(inputs), self._tokenizer
        codec, mask = GapCodec(tokenizer), module.vocabulary_size - 1
        pieces_of_each = [codec.encode(_around_gaps(prompt)) for prompt in prompts]
        rows = [self._tokens(pieces, mask) for pieces in pieces_of_each]
        for prompt, pieces, tokens in zip(prompts, pieces_of_each, rows, strict=True):
            probabilities_GV = self._in_gaps(module, tokens, mask)
            likeliest = np.argsort(-probabilities_GV, axis=1)[:, :CANDIDATES]
            best = likeliest[:, 0].tolist()
            candidates = [
                [
                    {
                        "token": codec.name_token(token, gap, pieces, best),
                        "score": float(scores[token]),
                    }
                    for token in tokens_of_gap.tolist()
                ]
                for gap, (tokens_of_gap, scores) in enumerate(
                    zip(likeliest, probabilities_GV, strict=True)
                )
            ]
            yield Filled(prompt, codec.fill(pieces, best), candidates)

    def render(self, output: Filled, *, as_json: bool) -> str:
        return json_text(vars(output)) if as_json else output.text

    def _tokens(self, pieces: Sequence[Piece], mask: int) -> np.ndarray:
        """Return the ids of a whole prompt, int32 [T]. Raises `UsageError` if there are too
        many."""
        ids = joined_ids(pieces, [mask] * (len(pieces) - 1))
        tokens = self._tokenizer.framed(np.array(ids, np.int32))
        if len(tokens) > self._length:
            raise UsageError(
                f"a prompt has {len(tokens)} tokens, and this model reads {self._length}: shorten "
                "it"
            )
        return tokens

    def _in_gaps(self, module: "nnx.Module", tokens: np.ndarray, mask: int) -> np.ndarray:
        """Return the probability of each token in each gap, float32 [gaps, V]."""
        padded_BT = np.zeros((1, self._length), np.int32)
        padded_BT[0, : len(tokens)] = tokens
        segments_BT = (np.arange(self._length) < len(tokens)).astype(np.int32)[None]
        probabilities_BTV = self._probabilities(module, padded_BT, segments_BT)
        probabilities_TV = np.asarray(probabilities_BTV[0, : len(tokens)])
        return probabilities_TV[tokens == mask, : self._tokenizer.vocabulary_size]


def _probabilities(
    module: "nnx.Module", tokens_BT: "jax.Array", segments_BT: "jax.Array"
) -> "jax.Array":
    """Return the probability of each token at each position, float32 [B, T, V]."""
    import jax

    logits_BTV, _ = module(tokens_BT, segments_BT=segments_BT)
    return jax.nn.softmax(logits_BTV, axis=-1)


def _around_gaps(prompt: str) -> list[str]:
    """Return the texts around the gaps of a prompt; raise `UsageError` if it has no gap."""
    texts = prompt.split(MASK)
    if len(texts) == 1:
        raise UsageError(f"{prompt!r} has no {MASK}: write it where a token is left out")
    return texts
