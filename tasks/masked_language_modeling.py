"""Masked language modelling: predict masked tokens of a text from its other tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from tasks.language_modeling import LanguageModeling, TokenPredictor
from tasks.task import Batch, Sums

MASKED, RANDOM = 0.8, 0.1
"""The fractions of the tokens to predict that are replaced by the mask, and by a random token. The
others stay unchanged (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""

FNV_PRIME = 0x01000193
"""The prime of the 32-bit FNV hash (Fowler, Noll and Vo)."""


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageModeling(LanguageModeling):
    """The task of predicting masked tokens. A batch is as in `LanguageModeling`.

    The targets are the original `tokens` at random positions. Each position with a nonzero weight
    is chosen with probability `mask_fraction`, and at least one per row that has an eligible
    position. The mask token is the last entry of the model's vocabulary. In training, each step
    draws new positions. In evaluation, the positions depend only on the row's tokens, so that
    repeated evaluations have the same loss.

    `framing`: ids of the tokens that the tokenizer adds around a text, such as [CLS]; they are
        never masked.
    """

    mask_fraction: float
    framing: tuple[int, ...] = ()
    extra_tokens = 1

    def loss_sums(
        self, model: TokenPredictor, batch: Batch, *, dropout_key: jax.Array | None
    ) -> Sums:
        assert dropout_key is not None
        dropout_key, mask_key = jax.random.split(dropout_key)
        keys_B = jax.random.split(mask_key, batch["tokens"].shape[0])
        masked = self.mask_batch(batch, keys_B, model.vocabulary_size)
        return super().loss_sums(model, masked, dropout_key=dropout_key)

    def evaluate(self, model: TokenPredictor, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        keys_B = jax.vmap(_key_of)(batch["tokens"])
        return super().evaluate(model, self.mask_batch(batch, keys_B, model.vocabulary_size))

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return `examples`, `loss` in nats per masked token, `perplexity` and `accuracy`.

        There is no `bits_per_byte`, because the loss covers only the masked tokens of the text.
        """
        return super().summarize(sums, None)

    def mask_batch(
        self, batch: Batch, keys_B: jax.Array, vocabulary_size: int
    ) -> dict[str, jax.Array]:
        """Return the batch with masked `tokens`, and with their `targets` and `weights`.

        `keys_B`: a random key for each row.
        """
        mask, T = vocabulary_size - 1, batch["tokens"].shape[1]

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            keys = jax.random.split(key, 3)
            return (
                jax.random.uniform(keys[0], (T,)),
                jax.random.uniform(keys[1], (T,)),
                jax.random.randint(keys[2], (T,), 0, mask),
            )

        drawn_BT, way_BT, random_BT = jax.vmap(draw)(keys_B)
        frames_BT = jnp.isin(batch["tokens"], jnp.array(self.framing, jnp.int32))
        drawn_BT = jnp.where((batch["weights"] > 0) & ~frames_BT, drawn_BT, 2.0)
        least_B1 = jnp.min(drawn_BT, axis=1, keepdims=True)
        chosen_BT = (drawn_BT < self.mask_fraction) | ((drawn_BT == least_B1) & (drawn_BT < 1))
        replaced_BT = jnp.where(way_BT < MASKED, mask, random_BT)
        kept_BT = ~chosen_BT | (way_BT >= MASKED + RANDOM)
        tokens_BT = jnp.where(kept_BT, batch["tokens"], replaced_BT)
        weights_BT = jnp.where(chosen_BT, batch["weights"], 0)
        changed = {"tokens": tokens_BT, "targets": batch["tokens"], "weights": weights_BT}
        return {**batch, **changed}


def _key_of(tokens_T: jax.Array) -> jax.Array:
    """Return a random key that depends only on the tokens of a row.

    The key's seed is a polynomial of the tokens modulo 2**32.
    """
    powers_T = np.array([pow(FNV_PRIME, place, 2**32) for place in range(tokens_T.size)], np.uint32)
    return jax.random.key(jnp.sum(tokens_T.astype(jnp.uint32) * powers_T, dtype=jnp.uint32))
