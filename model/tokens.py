"""What every model of tokens has around its body: the embedding before it, a head after it.

Axes: B batch, T length, D width, V vocabulary, C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.dropout import dropout as drop
from model.layers.embedding import TokenEmbedding, TokenTypes
from model.layers.head_transform import HeadTransform
from model.layers.linear import class_head
from model.layers.pooling import Pool
from model.layers.positions import LearnedPositions, segment_positions
from model.layers.sharding import constrain

State = dict[str, Any]


class TokenModel(nnx.Module):
    """Tokens to vectors, the body that `make_body()` makes, and the logits of tokens; or, with
    `num_classes`, what `pooling` makes of all positions and the logits of classes.

    The body is called as `model.backbone.Backbone` is, and gives vectors of size `features`.
    `max_length` bounds learned positions alone. What BERT has beside: `token_types` rows of a
    table whose first is added to each token, a norm of that sum, and what stands around the head
    (`model.layers.head_transform`). Computes in `dtype`, keeps parameters in `param_dtype`; the
    logits are float32. `has_bounded_context`: whether a state has room for a fixed number of
    tokens.
    """

    def __init__(
        self,
        make_body: Callable[[], nnx.Module],
        *,
        width: int,
        features: int,
        learned_positions: bool,
        has_bounded_context: bool,
        tied_embeddings: bool,
        logit_soft_cap: float | None,
        dropout: float,
        pooling: str,
        vocabulary_size: int,
        max_length: int,
        num_classes: int | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        token_types: int = 0,
        make_embedding_norm: Callable[[], nnx.Module] | None = None,
        make_head_transform: Callable[[], HeadTransform] | None = None,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embedding = TokenEmbedding(
            vocabulary_size,
            width,
            tied=tied_embeddings or num_classes is not None,  # without a head of its own
            **numbers,
        )
        self.positions = self.pool = self.classes = nnx.data(None)
        self.token_types = self.embedding_norm = self.head_transform = nnx.data(None)
        if learned_positions:
            self.positions = LearnedPositions(max_length, width, **numbers)
        if token_types:
            self.token_types = TokenTypes(token_types, width, **numbers)
        if make_embedding_norm is not None:
            self.embedding_norm = make_embedding_norm()
        self.backbone = make_body()
        if num_classes is None and make_head_transform is not None:
            self.head_transform = make_head_transform()
        if num_classes is not None:
            self.pool = Pool(pooling, features, **numbers)
            self.classes = class_head(features, num_classes, **numbers)
        self.dropout_rate, self.logit_soft_cap = dropout, logit_soft_cap
        self.has_bounded_context = has_bounded_context
        self.vocabulary_size = vocabulary_size

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """The state before the first token, for rows of at most `max_length` tokens."""
        return {
            "length": jnp.zeros(batch_size, jnp.int32),
            "layers": self.backbone.initial_state(batch_size, max_length),
        }

    def reset(self, state: State, rows_B: jax.Array) -> State:
        """`state` with the rows that `rows_B` (bool [B]) names as before their first token."""
        return {
            "length": jnp.where(rows_B, 0, state["length"]),
            "layers": self.backbone.reset(state["layers"], rows_B),
        }

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        segments_BT: jax.Array | None = None,
        state: State | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, State | None]:
        """int32 [B, T] -> logits of a token for each, float32 [B, T, V]; the state after them.

        Without a state the rows are whole: `segments_BT` (int32 [B, T]) numbers the documents
        packed into a row, which do not see each other. With a state, each row goes on from where
        it was; positions of segment 0, padding on the right, do not advance it. Dropout acts only
        where a key is given.
        """
        x_BTD, state = self.hidden(
            tokens_BT, segments_BT=segments_BT, state=state, dropout_key=dropout_key
        )
        return self.head(x_BTD), state

    def hidden(
        self,
        tokens_BT: jax.Array,
        *,
        segments_BT: jax.Array | None = None,
        state: State | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, State | None]:
        """The call without its head: vectors [B, T, D], and the state after them."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BTD = self.embedding.encode(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(_positions(tokens_BT, segments_BT, state))
        if self.token_types is not None:
            x_BTD = x_BTD + self.token_types()
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = drop(x_BTD, self.dropout_rate, keys[0])
        x_BTD, layers = self.backbone(
            x_BTD,
            state=None if state is None else state["layers"],
            segments_BT=segments_BT,
            dropout_key=keys[1],
        )
        if state is not None:
            real_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT != 0
            length_B = state["length"] + jnp.sum(real_BT, axis=1, dtype=jnp.int32)
            state = {"length": length_B, "layers": layers}
        return x_BTD, state

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """What `hidden` gives, [B, T, D] -> logits, float32 [B, T, V].

        `logit_soft_cap` c keeps them within it: c tanh(logits / c) (Gemma Team 2024,
        arXiv:2408.00118, section 2).
        """
        if self.head_transform is None:
            logits_BTV = self.embedding.decode(x_BTD)
        else:
            logits_BTV = self.head_transform(x_BTD, self.embedding.decode)
        cap = self.logit_soft_cap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)

    def classify(
        self,
        tokens_BT: jax.Array,
        *,
        segments_BT: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """int32 [B, T] -> logits of the classes of each row, float32 [B, C]; positions of segment
        0 are padding."""
        hidden_key = pool_key = None
        if dropout_key is not None:
            hidden_key, pool_key = jax.random.split(dropout_key)
        x_BTD, _ = self.hidden(tokens_BT, segments_BT=segments_BT, dropout_key=hidden_key)
        x_BD = drop(self.pool(x_BTD, segments_BT != 0), self.dropout_rate, pool_key)
        return constrain(self.classes(x_BD).astype(jnp.float32), "batch", "classes")


def _positions(
    tokens_BT: jax.Array, segments_BT: jax.Array | None, state: State | None
) -> jax.Array:
    """The index of each token within its document: int32 [B or 1, T]."""
    if state is not None:
        return state["length"][:, None] + jnp.arange(tokens_BT.shape[1])
    if segments_BT is not None:
        return segment_positions(segments_BT)
    return jnp.arange(tokens_BT.shape[1])[None]
