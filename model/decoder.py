"""The decoder: tokens to the logits of the next token, for any mixture of mixers.

Initial values, after GPT-2 (Radford et al. 2019); L is the depth:

    | parameter                                        | distribution                         |
    |--------------------------------------------------|--------------------------------------|
    | token and position tables, head                  | normal, 0.02                         |
    | query, key, value; gate and up of feed-forward   | normal, 0.02                         |
    | out of attention, down of feed-forward           | normal, 0.02 / sqrt(2 L)             |
    | LSTM: input kernel                               | normal cut at 2, 1 / sqrt(width)     |
    | LSTM: recurrent kernel                           | orthogonal rows                      |
    | LSTM: bias                                       | 1 for the forget gate, 0 else        |
    | scale of norms; other biases                     | 1; 0                                 |

Axes: B batch, T length, D width, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.backbone import Backbone
from model.layers.dropout import dropout as drop
from model.layers.embedding import TokenEmbedding
from model.layers.feed_forward import feed_forward_width as usual_feed_forward_width
from model.layers.linear import WEIGHT_STD
from model.layers.norms import norm as make_norm
from model.layers.positions import LearnedPositions, segment_positions

State = dict[str, Any]


class Decoder(nnx.Module):
    """A pre-norm causal language model.

    `pattern` has a letter for each block, repeated to the `depth`: "A" attention, "R" recurrence.
    None for `num_kv_heads` means `num_heads`; for `head_dim`, width // num_heads; for
    `feed_forward_width`, the usual one of its kind; for `attention_window`, the whole sequence.
    `attention`: the implementation, as in `model.layers.attend`.
    `max_length` bounds learned positions alone. Computes in `dtype`, keeps parameters in
    `param_dtype`; the logits are float32. `has_bounded_context`: whether a state has room for a
    fixed number of tokens.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        num_kv_heads: int | None,
        head_dim: int | None,
        pattern: str,
        recurrence: str,
        attention_window: int | None,
        attention: str,
        positions: str,
        rotary_base: float,
        norm: str,
        norm_epsilon: float,
        feed_forward: str,
        feed_forward_width: int | None,
        use_bias: bool,
        tied_embeddings: bool,
        logit_soft_cap: float | None,
        dropout: float,
        stochastic_depth: float,
        remat: str,
        scan_layers: bool,
        vocabulary_size: int,
        max_length: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if positions not in ("rotary", "learned", "none"):
            raise ValueError(f"positions {positions!r}: choose 'rotary', 'learned' or 'none'")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embedding = TokenEmbedding(vocabulary_size, width, tied=tied_embeddings, **numbers)
        self.positions = nnx.data(None)
        if positions == "learned":
            self.positions = LearnedPositions(max_length, width, **numbers)
        self.backbone = Backbone(
            depth=depth,
            pattern=pattern,
            scan_layers=scan_layers,
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads or num_heads,
            head_dim=head_dim or width // num_heads,
            causal=True,
            attention_window=attention_window,
            attention=attention,
            rotary_base=rotary_base if positions == "rotary" else None,
            recurrence=recurrence,
            norm_kind=norm,
            norm_epsilon=norm_epsilon,
            feed_forward=feed_forward,
            feed_forward_width=feed_forward_width or usual_feed_forward_width(feed_forward, width),
            use_bias=use_bias,
            dropout=dropout,
            stochastic_depth=stochastic_depth,
            remat=remat,
            residual_std=WEIGHT_STD / (2 * depth) ** 0.5,
            **numbers,
        )
        self.norm = make_norm(norm, width, epsilon=norm_epsilon, use_bias=use_bias, **numbers)
        self.dropout_rate, self.logit_soft_cap = dropout, logit_soft_cap
        # Recurrence alone goes on for ever: it has neither a cache nor a table to run out of.
        self.has_bounded_context = positions == "learned" or "A" in pattern[:depth]

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
        """int32 [B, T] -> logits of the token after each, float32 [B, T, V]; the state after them.

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
        """The call without its head: normalised vectors [B, T, D], and the state after them."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BTD = self.embedding.encode(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(_positions(tokens_BT, segments_BT, state))
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
        return self.norm(x_BTD), state

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """What `hidden` gives, [B, T, D] -> logits, float32 [B, T, V].

        `logit_soft_cap` c keeps them within it: c tanh(logits / c) (Gemma Team 2024,
        arXiv:2408.00118, section 2).
        """
        logits_BTV, cap = self.embedding.decode(x_BTD), self.logit_soft_cap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)


def _positions(
    tokens_BT: jax.Array, segments_BT: jax.Array | None, state: State | None
) -> jax.Array:
    """The index of each token within its document: int32 [B or 1, T]."""
    if state is not None:
        return state["length"][:, None] + jnp.arange(tokens_BT.shape[1])
    if segments_BT is not None:
        return segment_positions(segments_BT)
    return jnp.arange(tokens_BT.shape[1])[None]
