"""Gaps of prompts as a masked language model fills them in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.errors import UsageError
from data.codecs.tokenizers import Tokenizer
from inference.predictors import filling
from inference.predictors.filling import GapFilling


class Neighbours(nnx.Module):
    """Logits of a token from the one before it and the one behind it."""

    def __init__(self, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size + 1  # the mask
        shape = (2, self.vocabulary_size, self.vocabulary_size)
        self.table = nnx.Param(3 * jax.random.normal(jax.random.key(0), shape))

    def hidden(self, tokens_BT, *, segments_BT):
        before_BT, after_BT = jnp.roll(tokens_BT, 1, axis=1), jnp.roll(tokens_BT, -1, axis=1)
        return self.table[0, before_BT] + self.table[1, after_BT], None

    def head(self, x_BTV):
        return x_BTV

    def probability(self, before: int, token: int, after: int) -> float:
        return float(jax.nn.softmax(self.table[0, before] + self.table[1, after])[token])


@pytest.mark.parametrize(
    ("make", "prompt", "before", "after"),
    [
        (Tokenizer.characters, "a b[MASK] c", "b", " "),
        (Tokenizer.characters, "a [MASK]c", " ", "c"),
        (lambda texts: Tokenizer.bytes(), "a [MASK] c", " ", " "),
        (lambda texts: Tokenizer.train_bpe(texts, 300), "bad [MASK] cab", "bad", " cab"),
    ],
)
def test_probabilities_are_those_between_the_tokens_that_training_has(make, prompt, before, after):
    tokenizer = make(["bad bad cab cab a b c\n" * 9])
    model = Neighbours(tokenizer.vocabulary_size)
    (filled,) = GapFilling(tokenizer, 12).predict(model, [prompt])
    left, right = (tokenizer.encode(text).tolist() for text in (before, after))
    assert len(left) == len(right) == 1
    for candidate in filled.candidates[0]:
        ids = [
            one
            for one in range(tokenizer.vocabulary_size)
            if tokenizer.decode([one]) == candidate["token"]
        ]
        expected = [model.probability(left[0], one, right[0]) for one in ids]
        assert np.isclose(expected, candidate["score"], rtol=1e-4).any()
    start, end = prompt.split("[MASK]")
    assert filled.text.startswith(start.rstrip(" ")) and filled.text.endswith(end)


def test_a_prompt_that_is_too_long_or_has_no_gap_is_a_mistake_before_any_is_filled_in():
    tokenizer = Tokenizer.bytes()
    model = Neighbours(tokenizer.vocabulary_size)
    for prompt, message in (("no gap", "has no"), ("much [MASK] too long", "this model reads 8")):
        with pytest.raises(UsageError, match=message):
            next(GapFilling(tokenizer, 8).predict(model, ["a [MASK]", prompt]))


def test_prompts_share_batches_and_give_what_each_gives_alone(monkeypatch):
    tokenizer = Tokenizer.bytes()
    model = Neighbours(tokenizer.vocabulary_size)
    prompts = ["a [MASK] c", "[MASK]", "x[MASK]y[MASK][MASK] z", "[MASK] [MASK]", "end [MASK]"]
    alone = [
        one for prompt in prompts for one in GapFilling(tokenizer, 12).predict(model, [prompt])
    ]
    for rows, gaps in ((32, 256), (2, 256), (32, 3), (32, 1)):
        monkeypatch.setattr(filling, "MOST_ROWS", rows)
        monkeypatch.setattr(filling, "MOST_GAPS", gaps)
        assert [*GapFilling(tokenizer, 12).predict(model, prompts)] == alone
