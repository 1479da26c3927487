"""Masked language modelling: predict tokens that are left out from all others."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tasks.language_modeling import LanguageModeling
from tasks.task import Batch, Sums

MASKED, RANDOM = 0.8, 0.1
"""Shares of the tokens to predict that are masked, and replaced by a random one; the rest is left
(Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""


FACTOR = 0x01000193
"""The prime of the hash of Fowler, Noll and Vo, for words of 32 bits."""


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageModeling(LanguageModeling):
    """Batches as of language modelling; the targets are `tokens` themselves, at `mask_fraction` of
    the positions that have a weight, and at one of each row at least.

    The last entry of the model's vocabulary is the mask. In training each step draws other
    positions; in evaluation a row's tokens decide which, so that a split has one loss. `framing`:
    tokens that stand around texts, which are never left out.
    """

    mask_fraction: float
    framing: tuple[int, ...] = ()
    extra_tokens = 1

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        dropout_key, mask_key = jax.random.split(dropout_key)
        keys_B = jax.random.split(mask_key, batch["tokens"].shape[0])
        masked = self.masked(batch, keys_B, model.vocabulary_size)
        return super().loss_sums(model, masked, dropout_key=dropout_key)

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        keys_B = jax.vmap(_key_of)(batch["tokens"])
        return super().evaluate(model, self.masked(batch, keys_B, model.vocabulary_size))

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """`loss` in nats per token that was left out; of a text's bytes nothing can be said."""
        return super().summarize(sums, None)

    def masked(self, batch: Batch, keys_B: jax.Array, vocabulary_size: int) -> dict[str, jax.Array]:
        """The batch as it is predicted from: row b masked by the key keys_B[b]."""
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
        left_BT = ~chosen_BT | (way_BT >= MASKED + RANDOM)
        tokens_BT = jnp.where(left_BT, batch["tokens"], replaced_BT)
        weights_BT = jnp.where(chosen_BT, batch["weights"], 0)
        own = {"tokens": tokens_BT, "targets": batch["tokens"], "weights": weights_BT}
        return {**batch, **own}


def _key_of(tokens_T: jax.Array) -> jax.Array:
    """A random key that the tokens of a row decide: a polynomial of them, modulo 2**32."""
    powers_T = np.array([pow(FACTOR, place, 2**32) for place in range(tokens_T.size)], np.uint32)
    return jax.random.key(jnp.sum(tokens_T.astype(jnp.uint32) * powers_T, dtype=jnp.uint32))
