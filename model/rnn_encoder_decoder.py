"""The recurrent encoder-decoder with additive attention (Bahdanau et al. 2015, arXiv:1409.0473).

Initial values: token tables and head normal, 0.02; what leads into a recurrence normal cut at 2,
1 / sqrt(inputs); the recurrences as in model/decoder.py; all else normal, 1 / sqrt(inputs).

Axes: B batch, S source length, T target length, D width, U units, F size of an encoded source,
G gates, V vocabulary, K rows of a group.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.additive_attention import AdditiveAttention
from model.layers.dropout import dropout as drop
from model.layers.embedding import TokenEmbedding
from model.layers.linear import linear
from model.layers.recurrence import CELLS, Recurrence, advance, of_all_gates, whole_rows
from model.layers.rows import select_rows
from model.layers.sharding import constrain, named
from model.rnn import StackedRecurrence

Memory = dict[str, jax.Array]
CellState = dict[str, jax.Array]
State = dict[str, Any]


class AttentionalRecurrence(nnx.Module):
    """A layer of cells that looks at the source at every step; W, R and C are kernels.

    With `input_feeding` by the state before, and the cell reads what it found (Bahdanau et al.,
    section A.1.1, the cell being any of `model.layers.recurrence.CELLS`):

        c_t = attention(h_(t-1))
        h_t = cell(W x_t + C c_t + R h_(t-1))

    Else by the state itself, which reads the targets alone (Luong et al. 2015, arXiv:1508.04025,
    section 3): then the recurrence does not wait for the attention.

        h_t = cell(W x_t + R h_(t-1))
        c_t = attention(h_t)
    """

    def __init__(
        self,
        kind: str,
        width: int,
        units: int,
        source_size: int,
        *,
        input_feeding: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.cell = Recurrence(kind, width, units, **numbers)
        self.attention = AdditiveAttention(units, source_size, units, **numbers)
        self.context_kernel = nnx.data(None)
        if input_feeding:
            gates = CELLS[kind].inputs
            flat = nnx.initializers.lecun_normal()(
                rngs.params(), (source_size, gates * units), jnp.dtype(param_dtype)
            )
            self.context_kernel = nnx.Param(
                flat.reshape(source_size, gates, units), **named("embed", None, "recurrent")
            )
        self.kind, self.dtype = kind, jnp.dtype(dtype)

    def __call__(
        self, x_BTD: jax.Array, memory: Memory, state: CellState
    ) -> tuple[jax.Array, jax.Array, CellState]:
        """[B, T, D] -> h [B, T, U] and c [B, T, F], and the state after the last position."""

        def look(hidden_BU: jax.Array) -> jax.Array:
            found_BF = self.attention(
                hidden_BU.astype(self.dtype), memory["keys"], memory["source"], memory["sources"]
            )
            return constrain(found_BF, "batch", None)

        # Made again in the backward pass: the scores' network is S times as large as all else.
        look = jax.checkpoint(look, prevent_cse=False)
        if self.context_kernel is None:
            h_BTU, state = self.cell(x_BTD, state=state)
            _, c_TBF = jax.lax.scan(lambda _, h_BU: (None, look(h_BU)), None, h_BTU.swapaxes(0, 1))
            return h_BTU, c_TBF.swapaxes(0, 1), state

        kernel_UGU = whole_rows(self.cell.recurrent_kernel[...], self.dtype)
        kernel_FGU = whole_rows(self.context_kernel[...], self.dtype)

        def step(state: CellState, gates_BGU: jax.Array):
            c_BF = look(state["hidden"])
            of_context_BGU = jnp.einsum("BF,FGU->BGU", c_BF, kernel_FGU)
            gates_BGU = gates_BGU + of_all_gates(self.kind, of_context_BGU)
            state = advance(self.kind, gates_BGU, kernel_UGU, state)
            return state, (state["hidden"], c_BF)

        gates_TBGU = self.cell.gates(x_BTD)
        state, (h_TBU, c_TBF) = jax.lax.scan(step, state, gates_TBGU)
        h_BTU = constrain(h_TBU.swapaxes(0, 1).astype(self.dtype), "batch", "length", "width")
        return h_BTU, c_TBF.swapaxes(0, 1), state


class RNNEncoderDecoder(nnx.Module):
    """A recurrent encoder that runs both ways, and a recurrent decoder that looks back at it.

    The encoder has `encoder_depth` layers (None: `depth`), of `width` units each way. Of the
    decoder's `depth` layers the first looks at the source, those above it read what that found too
    (Wu et al. 2016, arXiv:1609.08144, section 3). What is read out is

        tanh(O [h_t, c_t, x_t])

    (Bahdanau et al., section A.2.2, with tanh in place of maxout) of the highest h. The first
    state is tanh(I h_1), of the encoder's backward half at the first source (section A.2.2).
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        encoder_depth: int | None,
        recurrence: str,
        input_feeding: bool,
        shared_embeddings: bool,
        tied_embeddings: bool,
        dropout: float,
        vocabulary_size: int,
        max_source_length: int,
        max_length: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        layers = {"dropout": dropout, **numbers}
        self.embedding = TokenEmbedding(vocabulary_size, width, tied=tied_embeddings, **numbers)
        self.source_embedding = nnx.data(None)
        if not shared_embeddings:  # Tied: it has no head of its own.
            self.source_embedding = TokenEmbedding(vocabulary_size, width, tied=True, **numbers)
        self.encoder = StackedRecurrence(
            recurrence, width, width, depth=encoder_depth or depth, bidirectional=True, **layers
        )
        features, units = self.encoder.features, width
        self.start = linear(
            (features - units,), (units,), ("embed", "recurrent"), std=units**-0.5, **numbers
        )
        self.first = AttentionalRecurrence(
            recurrence, width, units, features, input_feeding=input_feeding, **numbers
        )
        self.upper = StackedRecurrence(
            recurrence, units + features, units, depth=depth - 1, bidirectional=False, **layers
        )
        inputs = units + features + width
        self.readout = linear(
            (inputs,), (width,), ("recurrent", "embed"), std=inputs**-0.5, use_bias=True, **numbers
        )
        self.kind, self.units, self.dropout_rate = recurrence, units, dropout
        self.vocabulary_size = vocabulary_size

    def encode(
        self,
        source_BS: jax.Array,
        *,
        segments_BS: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> Memory:
        """int32 [B, S] -> what the decoder looks at and begins with, for any number of calls of
        `hidden`. Positions of segment 0 are padding on the right, which nobody sees."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        x_BSD = drop(embedding.encode(source_BS), self.dropout_rate, keys[0])
        source_BSF, _ = self.encoder(x_BSD, segments_BT=segments_BS, dropout_key=keys[1])
        return {
            "source": source_BSF,
            "keys": self.first.attention.keys(source_BSF),
            "sources": segments_BS != 0,
            "start": jnp.tanh(self.start(source_BSF[:, 0, self.units :])),
        }

    def initial_state(self, memory: Memory, max_length: int) -> State:
        """The state before the first target; `max_length` is of no matter here."""
        rows = memory["start"].shape[0]
        first = self.first.cell.initial_state(rows, max_length)
        return {
            "first": first | {"hidden": memory["start"].astype(jnp.float32)},
            "upper": self.upper.initial_state(rows, max_length),
        }

    def select(self, kept: Memory | State, chosen_BK: jax.Array) -> Memory | State:
        """Rows of a memory or a state, as in `model.layers.rows.select_rows`."""
        return select_rows(kept, chosen_BK)

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
        keys = [None] * 4 if dropout_key is None else jax.random.split(dropout_key, 4)
        before = state or self.initial_state(memory, tokens_BT.shape[1])
        x_BTD = drop(self.embedding.encode(tokens_BT), self.dropout_rate, keys[0])
        h_BTU, c_BTF, first = self.first(x_BTD, memory, before["first"])
        h_BTU = drop(h_BTU, self.dropout_rate, keys[1])
        upper = before["upper"]
        if self.upper.layers:
            above_BTX = jnp.concatenate([h_BTU, c_BTF], axis=-1)
            h_BTU, upper = self.upper(above_BTX, state=upper, dropout_key=keys[2])
        x_BTD = jnp.tanh(self.readout(jnp.concatenate([h_BTU, c_BTF, x_BTD], axis=-1)))
        x_BTD = constrain(drop(x_BTD, self.dropout_rate, keys[3]), "batch", "length", "width")
        return x_BTD, None if state is None else {"first": first, "upper": upper}

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """What `hidden` gives, [B, T, D] -> logits, float32 [B, T, V]."""
        return self.embedding.decode(x_BTD)
