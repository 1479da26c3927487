"""The encoder-decoder of blocks: it reads one sequence of tokens, and writes another.

Initial values as in model/decoder.py; in the decoder, whose blocks have three parts, the kernels
that lead out of a part are normal, 0.02 / sqrt(3 L).

Axes: B batch, S source length, T target length, D width, V vocabulary, K rows of a group.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.backbone import Backbone
from model.layers.dropout import dropout as drop
from model.layers.embedding import TokenEmbedding
from model.layers.positions import LearnedPositions, sinusoids
from model.layers.rows import select_rows

POSITIONS = ("sinusoidal", "learned", "rotary", "none")

Memory = dict[str, Any]
State = dict[str, Any]


class EncoderDecoder(nnx.Module):
    """A stack of blocks that see the whole source, and one of blocks that see the targets before
    them and, by cross-attention, the encoded source (Vaswani et al. 2017, arXiv:1706.03762).

    `pattern` and `depth` are the decoder's, and the encoder's too where it has none of its own.
    `shared_embeddings`: sources and targets are looked up in one table; `tied_embeddings`: the head
    is the targets' table. `max_source_length` and `max_length` (of targets) bound learned positions
    alone. `blocks`: the other arguments of `model.backbone.Backbone`.
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
        dropout: float,
        vocabulary_size: int,
        max_source_length: int,
        max_length: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        **blocks: Any,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r}: choose from {POSITIONS}")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        blocks |= {
            "width": width,
            "rotary_base": rotary_base if positions == "rotary" else None,
            "dropout": dropout,
            **numbers,
        }
        self.embedding = TokenEmbedding(vocabulary_size, width, tied=tied_embeddings, **numbers)
        self.source_embedding = self.positions = self.source_positions = nnx.data(None)
        if not shared_embeddings:  # Tied: it has no head of its own.
            self.source_embedding = TokenEmbedding(vocabulary_size, width, tied=True, **numbers)
        if positions == "learned":
            self.positions = LearnedPositions(max_length, width, **numbers)
            self.source_positions = LearnedPositions(max_source_length, width, **numbers)
        self.encoder = Backbone(
            depth=encoder_depth or depth,
            pattern=encoder_pattern or pattern,
            causal=False,
            **blocks,
        )
        self.decoder = Backbone(
            depth=depth, pattern=pattern, causal=True, cross_attention=True, **blocks
        )
        self.has_sinusoids = positions == "sinusoidal"
        self.dropout_rate, self.logit_soft_cap = dropout, logit_soft_cap
        self.vocabulary_size = vocabulary_size

    def encode(
        self,
        source_BS: jax.Array,
        *,
        segments_BS: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """int32 [B, S] -> what the decoder looks at, for any number of calls of `hidden`: of each
        of its blocks keys and values. Positions of segment 0 are padding, which nobody sees."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BSD = self._vectors(
            source_BS,
            jnp.arange(source_BS.shape[1])[None],
            self.embedding if self.source_embedding is None else self.source_embedding,
            self.source_positions,
            keys[0],
        )
        x_BSD, _ = self.encoder(x_BSD, segments_BT=segments_BS, dropout_key=keys[1])
        return {"layers": self.decoder.keys_values(x_BSD), "sources": segments_BS != 0}

    def initial_state(self, memory: Memory, max_length: int) -> State:
        """The state before the first target, for rows of at most `max_length` targets."""
        rows = memory["sources"].shape[0]
        return {
            "length": jnp.zeros(rows, jnp.int32),
            "layers": self.decoder.initial_state(rows, max_length),
        }

    def select(self, kept: Memory | State, chosen_BK: jax.Array) -> Memory | State:
        """Rows of a memory or a state, as in `model.layers.rows.select_rows`."""
        return {
            name: self.decoder.select(part, chosen_BK)
            if name == "layers"
            else select_rows(part, chosen_BK)
            for name, part in kept.items()
        }

    def hidden(
        self,
        tokens_BT: jax.Array,
        memory: Memory,
        *,
        state: State | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, State | None]:
        """int32 [B, T] -> vectors [B, T, D] for `head`, and the state after them.

        Without a state: targets from the first one on. With a state: the next T of each row.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        positions_BT = jnp.arange(tokens_BT.shape[1])[None]
        if state is not None:
            positions_BT = state["length"][:, None] + positions_BT
        x_BTD = self._vectors(tokens_BT, positions_BT, self.embedding, self.positions, keys[0])
        x_BTD, layers = self.decoder(
            x_BTD,
            state=None if state is None else state["layers"],
            source=memory["layers"],
            sources_BS=memory["sources"],
            dropout_key=keys[1],
        )
        if state is not None:
            state = {"length": state["length"] + tokens_BT.shape[1], "layers": layers}
        return x_BTD, state

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """What `hidden` gives, [B, T, D] -> logits, float32 [B, T, V]; `logit_soft_cap` as in
        `model.tokens.TokenModel`."""
        logits_BTV, cap = self.embedding.decode(x_BTD), self.logit_soft_cap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)

    def _vectors(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        embedding: TokenEmbedding,
        learned: LearnedPositions | None,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """[B, T] -> [B, T, D]: the vector of each token and where it stands. With sinusoids the
        tokens' vectors are multiplied by sqrt(D) (Vaswani et al., section 3.4)."""
        x_BTD = embedding.encode(tokens_BT)
        if learned is not None:
            x_BTD = x_BTD + learned(positions_BT)
        elif self.has_sinusoids:
            width = x_BTD.shape[-1]
            x_BTD = x_BTD * width**0.5 + sinusoids(positions_BT, width).astype(x_BTD.dtype)
        return drop(x_BTD, self.dropout_rate, dropout_key)
