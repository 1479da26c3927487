"""The base class of token models: an embedding, a body and a head.

Axes: B batch, T length, D width, V vocabulary, C classes.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.dropout import apply_dropout, split_key
from model.layers.embedding import TokenEmbedding, soft_capped
from model.layers.linear import logits_head
from model.layers.numerics import Numerics
from model.layers.pooling import Pool
from model.layers.positions import LearnedPositions, segment_positions
from model.layers.sharding import constrain
from model.layers.states import ModelState, State, StateAxes


class Body(Protocol):
    """The part of a model between embedding and head, such as `model.backbone.Backbone`."""

    features: int
    """The size of the output vectors."""

    @property
    def state_axes(self) -> list[StateAxes]:
        """The logical axes of the arrays of a state."""
        ...

    def initial_state(self, batch_size: int, max_length: int) -> list[State]: ...

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[State] | None,
        segments_BT: jax.Array | None,
        dropout_key: jax.Array | None,
    ) -> tuple[jax.Array, list[State] | None]: ...


class TokenModel(nnx.Module):
    """Base class: embeds tokens, calls a body and computes token logits at each position. With
    `num_classes`, it pools over all positions and computes class logits instead.

    A subclass implements `make_body`, which sets `backbone` and optional layers around it.
    `hyperparameters` are passed to `make_body`. `max_length` is used only with `learned_positions`.

    `logit_soft_cap`: see `soft_capped`.

    The attribute `has_bounded_context` is True if the number of tokens in a state is limited.
    """

    backbone: Body
    token_types: nnx.Module | None
    embedding_norm: nnx.Module | None
    head_transform: nnx.Module | None

    def __init__(
        self,
        *,
        width: int,
        tied_embeddings: bool,
        dropout: float,
        pooling: str,
        vocabulary_size: int,
        max_length: int,
        num_classes: int | None = None,
        learned_positions: bool = False,
        logit_soft_cap: float | None = None,
        numerics: Numerics,
        rngs: nnx.Rngs,
        **hyperparameters: Any,
    ):
        self.vocabulary_size, self.is_classifier = vocabulary_size, num_classes is not None
        self.dropout_rate, self.logit_soft_cap = dropout, logit_soft_cap
        self.has_bounded_context = learned_positions
        tied = tied_embeddings or self.is_classifier  # A classifier has no token head.
        self.embedding = TokenEmbedding(vocabulary_size, width, numerics, rngs, tied=tied)
        self.positions = self.pool = self.classes = nnx.data(None)
        self.token_types = self.embedding_norm = self.head_transform = nnx.data(None)
        if learned_positions:
            self.positions = LearnedPositions(max_length, width, numerics, rngs)
        self.make_body(numerics, rngs, width=width, dropout=dropout, **hyperparameters)
        if num_classes is not None:
            features = self.backbone.features
            self.pool = Pool(pooling, features, numerics, rngs)
            self.classes = logits_head(features, num_classes, ("embed", "classes"), numerics, rngs)

    def make_body(
        self, numerics: Numerics, rngs: nnx.Rngs, *_: Any, **hyperparameters: Any
    ) -> None:
        """Set `backbone` and, for BERT, `token_types`, `embedding_norm`, `head_transform`."""
        raise NotImplementedError

    def initial_state(self, batch_size: int, max_length: int) -> ModelState:
        """Return the state before the first token, with room for `max_length` tokens per row."""
        return {
            "length": jnp.zeros(batch_size, jnp.int32),
            "layers": self.backbone.initial_state(batch_size, max_length),
        }

    @property
    def state_axes(self) -> dict[str, Any]:
        """Return the logical axes of the arrays of a state, a tree like the state's."""
        return {"length": ("batch",), "layers": self.backbone.state_axes}

    def map_state(
        self, function: Callable[..., jax.Array], state: ModelState, *others: ModelState
    ) -> ModelState:
        """Apply `function(axes, array, *arrays of others)` to each array of `state`; `axes` are its
        logical axes."""
        return jax.tree.map(
            lambda x, axes, *more: function(axes, x, *more), state, self.state_axes, *others
        )

    def rewind(self, state: ModelState, before: ModelState, length_B: jax.Array) -> ModelState:
        """Return `state`, of which attention sees only the first `length_B` tokens of each row
        (int32 [B]).

        The hidden states of recurrences and the inputs of convolutions can't be rewound: they are
        taken from `before`, an earlier state. With a window, at most `RING_SLACK` tokens can be
        taken back.
        """

        def rewound(layer: State, earlier: State) -> State:
            if "length" not in layer:
                return earlier
            return {**layer, "length": jnp.broadcast_to(length_B, layer["length"].shape)}

        layers = [rewound(*pair) for pair in zip(state["layers"], before["layers"], strict=True)]
        return {"length": length_B, "layers": layers}

    @property
    def can_rewind(self) -> bool:
        """Return whether `rewind` needs no earlier state: every mixer is attention."""
        return all("length" in axes for axes in self.backbone.state_axes)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        segments_BT: jax.Array | None = None,
        state: ModelState | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, ModelState | None]:
        """Map tokens, int32 [B, T] to logits at each position, float32 [B, T, V]; also return the
        new state.

        Without a state, the rows are whole sequences. `segments_BT` (int32 [B, T]) then numbers the
        documents packed into a row; documents do not see each other. With a state, the tokens are
        the next T of each row. Positions of segment 0 are then padding at the end of a row and do
        not change the state. Dropout is applied only if `dropout_key` is given.
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
        state: ModelState | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, ModelState | None]:
        """Map tokens, int32 [B, T] to the input of `head`, [B, T, D]; otherwise as `__call__`."""
        keys = split_key(dropout_key)
        x_BTD = self.embedding.encode(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(_positions(tokens_BT, segments_BT, state))
        if self.token_types is not None:
            x_BTD = x_BTD + self.token_types()
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = apply_dropout(x_BTD, self.dropout_rate, keys[0])
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
        """Map the output of `hidden`, [B, T, D] to logits, float32 [B, T, V]."""
        if self.head_transform is None:
            logits_BTV = self.embedding.decode(x_BTD)
        else:
            logits_BTV = self.head_transform(x_BTD, self.embedding.decode)
        return soft_capped(logits_BTV, self.logit_soft_cap)

    def classify(
        self, tokens_BT: jax.Array, *, segments_BT: jax.Array, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Map tokens, int32 [B, T] to class logits, float32 [B, C]. Positions of segment 0 are
        padding."""
        assert self.pool is not None and self.classes is not None
        hidden_key, pool_key = split_key(dropout_key)
        x_BTD, _ = self.hidden(tokens_BT, segments_BT=segments_BT, dropout_key=hidden_key)
        x_BD = apply_dropout(self.pool(x_BTD, segments_BT != 0), self.dropout_rate, pool_key)
        return constrain(self.classes(x_BD), "batch", "classes")


def _positions(
    tokens_BT: jax.Array, segments_BT: jax.Array | None, state: ModelState | None
) -> jax.Array:
    """Return the index of each token within its document: int32 [B or 1, T]."""
    if state is not None:
        return state["length"][:, None] + jnp.arange(tokens_BT.shape[1])
    if segments_BT is not None:
        return segment_positions(segments_BT)
    return jnp.arange(tokens_BT.shape[1])[None]
