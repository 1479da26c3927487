"""An encoder-decoder of residual blocks, which maps one token sequence to another.

Initial values as in model/decoder.py, except for the output kernels of the decoder's blocks:
normal, 0.02 / sqrt(3 L), because each of the L blocks has three parts.

Axes: B batch, S source length, T target length, D width, V vocabulary, K rows selected from each
group.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.backbone import Backbone, BackboneSpec
from model.layers.dropout import apply_dropout, split_key
from model.layers.embedding import TokenEmbedding, soft_capped
from model.layers.numerics import Numerics
from model.layers.positions import LearnedPositions, fairseq_sinusoids, sinusoids
from model.layers.states import Memory, ModelState, select_rows

SINUSOIDS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "sinusoidal": sinusoids,
    "sinusoidal_fairseq": fairseq_sinusoids,
}
POSITIONS = (*SINUSOIDS, "learned", "rotary", "none")


class EncoderDecoder(nnx.Module):
    """A bidirectional encoder of the source, and a causal decoder of the targets with
    cross-attention to the encoded source (Vaswani et al. 2017, arXiv:1706.03762).

    `depth`, `pattern`: the number of blocks and the mixers of the decoder.
    `encoder_depth`, `encoder_pattern`: the same for the encoder; None: as in the decoder.
    `shared_embeddings`: whether sources and targets use one token table.
    `tied_embeddings`: whether the head is the transposed token table of the targets.
    `max_source_length`, `max_length`: the largest lengths of a source and of targets; used only for
        learned positions.
    `blocks`: the other fields of `BackboneSpec`.

    Raises ValueError for an unknown value of `positions`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        pattern: str,
        encoder_depth: int | None,
        encoder_pattern: str | None,
        positions: str,
        rotary_base: float,
        shared_embeddings: bool,
        tied_embeddings: bool,
        logit_soft_cap: float | None,
        vocabulary_size: int,
        max_source_length: int,
        max_length: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        **blocks: Any,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r}: choose from {POSITIONS}")
        self.embedding = TokenEmbedding(
            vocabulary_size, width, numerics, rngs, tied=tied_embeddings
        )
        self.source_embedding = self.positions = self.source_positions = nnx.data(None)
        if not shared_embeddings:  # `tied`, because a source needs no head.
            self.source_embedding = TokenEmbedding(
                vocabulary_size, width, numerics, rngs, tied=True
            )
        if positions == "learned":
            self.positions = LearnedPositions(max_length, width, numerics, rngs)
            self.source_positions = LearnedPositions(max_source_length, width, numerics, rngs)
        decoder = BackboneSpec(
            width=width,
            depth=depth,
            pattern=pattern,
            causal=True,
            cross_attention=True,
            rotary_base=rotary_base if positions == "rotary" else None,
            **blocks,
        )
        encoder = dataclasses.replace(
            decoder,
            depth=encoder_depth or depth,
            pattern=encoder_pattern or pattern,
            causal=False,
            cross_attention=False,
        )
        self.encoder = Backbone(encoder, numerics, rngs)
        self.decoder = Backbone(decoder, numerics, rngs)
        self.sinusoids = SINUSOIDS.get(positions)
        self.dropout_rate, self.logit_soft_cap = decoder.dropout, logit_soft_cap
        self.vocabulary_size = vocabulary_size

    def encode(
        self, source_BS: jax.Array, *, segments_BS: jax.Array, dropout_key: jax.Array | None = None
    ) -> Memory:
        """Encode a source, int32 [B, S], into the `memory` argument of `hidden`.

        A memory contains the keys and values for each block of the decoder, and the source mask.
        Positions of segment 0 are padding, and not visible to other positions.
        """
        keys = split_key(dropout_key)
        x_BSD = self._embed(
            source_BS,
            jnp.arange(source_BS.shape[1])[None],
            self.embedding if self.source_embedding is None else self.source_embedding,
            self.source_positions,
            keys[0],
        )
        x_BSD, _ = self.encoder(x_BSD, segments_BT=segments_BS, dropout_key=keys[1])
        return {"layers": self.decoder.keys_values(x_BSD), "source_mask": segments_BS != 0}

    def initial_state(self, memory: Memory, max_length: int) -> ModelState:
        """Return the state before the first target, with room for `max_length` targets per row."""
        rows = memory["source_mask"].shape[0]
        return {
            "length": jnp.zeros(rows, jnp.int32),
            "layers": self.decoder.initial_state(rows, max_length),
        }

    def select(self, tree: Memory | ModelState, chosen_BK: jax.Array) -> Memory | ModelState:
        """Select rows of a memory or a state, with `model.layers.states.select_rows`."""
        return {
            name: self.decoder.select(part, chosen_BK)
            if name == "layers"
            else select_rows(part, chosen_BK)
            for name, part in tree.items()
        }

    def hidden(
        self,
        tokens_BT: jax.Array,
        memory: Memory,
        *,
        state: ModelState | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, ModelState | None]:
        """Map targets, int32 [B, T], to the input of `head`, [B, T, D]; also return the new state.

        Without a state, the tokens are the first T of each row; with a state, the next T.
        """
        keys = split_key(dropout_key)
        positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        if state is not None:
            positions_BT = state["length"][:, None] + positions_BT
        x_BTD = self._embed(tokens_BT, positions_BT, self.embedding, self.positions, keys[0])
        x_BTD, layers = self.decoder(
            x_BTD,
            state=None if state is None else state["layers"],
            keys_values=memory["layers"],
            source_mask_BS=memory["source_mask"],
            dropout_key=keys[1],
        )
        if state is not None:
            state = {"length": state["length"] + tokens_BT.shape[1], "layers": layers}
        return x_BTD, state

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """Map the output of `hidden`, [B, T, D] to logits, float32 [B, T, V]."""
        return soft_capped(self.embedding.decode(x_BTD), self.logit_soft_cap)

    def _embed(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        embedding: TokenEmbedding,
        learned: LearnedPositions | None,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """Return the sum of token and position embeddings, [B, T, D]. With sinusoids, the token
        embeddings are multiplied by sqrt(D) (Vaswani et al., section 3.4)."""
        x_BTD = embedding.encode(tokens_BT)
        if learned is not None:
            x_BTD = x_BTD + learned(positions_BT)
        elif self.sinusoids is not None:
            width = x_BTD.shape[-1]
            x_BTD = x_BTD * width**0.5 + self.sinusoids(positions_BT, width).astype(x_BTD.dtype)
        return apply_dropout(x_BTD, self.dropout_rate, dropout_key)
