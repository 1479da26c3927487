"""A recurrent encoder-decoder with additive attention (Bahdanau et al. 2015, arXiv:1409.0473).

Initial values: token tables and head normal, 0.02; input and context kernels of recurrences
truncated normal, 1 / sqrt(inputs); other parameters of recurrences as in model/decoder.py; all
other kernels normal, 1 / sqrt(inputs).

Axes: B batch, S source length, T target length, D width, U units, F size of encoded source vectors,
G gates, V vocabulary, K rows selected from each group.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.additive_attention import AdditiveAttention
from model.layers.dropout import apply_dropout, split_key
from model.layers.embedding import TokenEmbedding
from model.layers.int8 import multiply
from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.recurrence import (
    CELLS,
    Recurrence,
    advance,
    gate_kernel,
    gathered_rows,
    with_all_gates,
)
from model.layers.sharding import constrain
from model.layers.states import Memory, ModelState, State, select_rows
from model.rnn import StackedRecurrence


class AttentionalRecurrence(nnx.Module):
    """A recurrent layer that attends to the source at every step. Below, h is the hidden state, c
    the context, x the input; W, R and C are kernels.

    With `input_feeding`, the previous hidden state is the query, and the context is an input of the
    cell (Bahdanau et al., section A.1.1, with any cell of `model.layers.recurrence.CELLS`):

        c_t = attention(h_(t-1))
        h_t = cell(W x_t + C c_t + R h_(t-1))

    Otherwise the new hidden state is the query, and the context is not an input of the cell (Luong
    et al. 2015, arXiv:1508.04025, section 3). The recurrence then does not wait for the attention:

        h_t = cell(W x_t + R h_(t-1))
        c_t = attention(h_t)
    """

    def __init__(
        self,
        kind: str,
        width: int,
        units: int,
        source_size: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        input_feeding: bool,
    ):
        self.cell = Recurrence(kind, width, units, numerics, rngs)
        self.attention = AdditiveAttention(units, source_size, units, numerics, rngs)
        self.context_kernel = nnx.data(None)
        if input_feeding:
            shape = (source_size, CELLS[kind].inputs, units)
            self.context_kernel = gate_kernel(shape, numerics, rngs)
        self.kind = kind
        self.dtype, self.precision = numerics.dtype, numerics.precision

    def __call__(
        self, x_BTD: jax.Array, memory: Memory, state: State
    ) -> tuple[jax.Array, jax.Array, State]:
        """Map [B, T, D] to h [B, T, U] and c [B, T, F]; also return the new state. `memory`: from
        `RNNEncoderDecoder.encode`."""

        def attend(hidden_BU: jax.Array) -> jax.Array:
            source = (memory["keys"], memory["source"], memory["source_mask"])
            context_BF = self.attention(hidden_BU.astype(self.dtype), *source)
            return constrain(context_BF, "batch", None)

        # Recomputed in the backward pass: the hidden layer of the scores is S times larger than h.
        attend = jax.checkpoint(attend, prevent_cse=False)
        if self.context_kernel is None:
            h_BTU, after = self.cell(x_BTD, state=state)
            assert after is not None
            h_TBU = h_BTU.swapaxes(0, 1)
            _, c_TBF = jax.lax.scan(lambda _, h_BU: (None, attend(h_BU)), None, h_TBU)
            return h_BTU, c_TBF.swapaxes(0, 1), after

        kernel_UGU = gathered_rows(self.cell.recurrent_kernel[...], self.dtype)
        kernel_FGU = gathered_rows(self.context_kernel[...], self.dtype)

        def step(state: State, gates_BGU: jax.Array):
            c_BF = attend(state["hidden"])
            context_BGU = multiply(c_BF, kernel_FGU, self.dtype, self.precision)
            gates_BGU = gates_BGU + with_all_gates(self.kind, context_BGU)
            state = advance(self.kind, self.precision, gates_BGU, kernel_UGU, state)
            return state, (state["hidden"], c_BF)

        gates_TBGU = self.cell.gates(x_BTD)
        state, (h_TBU, c_TBF) = jax.lax.scan(step, state, gates_TBGU)
        h_BTU = constrain(h_TBU.swapaxes(0, 1).astype(self.dtype), "batch", "length", "width")
        return h_BTU, c_TBF.swapaxes(0, 1), state


class RNNEncoderDecoder(nnx.Module):
    """A bidirectional recurrent encoder, and a recurrent decoder that attends to it.

    The encoder has `encoder_depth` layers (None: `depth`) of `width` units in each direction. The
    decoder has `depth` layers. Its first layer attends to the source and computes the context c,
    which is also an input of the second layer (of all later layers in Wu et al. 2016,
    arXiv:1609.08144, section 3). The input of the head is

        tanh(O [h_t, c_t, x_t])

    with h of the last layer (Bahdanau et al., section A.2.2, with tanh instead of maxout). The
    first layer's initial hidden state is tanh(I b_1), where b_1 is the output of the encoder's
    backward direction at the first source position (section A.2.2).

    `shared_embeddings`, `tied_embeddings`: as in `model.encoder_decoder.EncoderDecoder`.
    `max_source_length`, `max_length`: no effect.
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
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.embedding = TokenEmbedding(
            vocabulary_size, width, numerics, rngs, tied=tied_embeddings
        )
        self.source_embedding = nnx.data(None)
        if not shared_embeddings:  # `tied`, because a source needs no head.
            self.source_embedding = TokenEmbedding(
                vocabulary_size, width, numerics, rngs, tied=True
            )
        self.encoder = StackedRecurrence(
            recurrence,
            width,
            width,
            numerics,
            rngs,
            depth=encoder_depth or depth,
            bidirectional=True,
            dropout=dropout,
        )
        features, units = self.encoder.features, width
        self.start = linear(
            features - units, units, ("embed", "recurrent"), numerics, rngs, std=units**-0.5
        )
        self.first = AttentionalRecurrence(
            recurrence, width, units, features, numerics, rngs, input_feeding=input_feeding
        )
        self.upper = StackedRecurrence(
            recurrence,
            units + features,
            units,
            numerics,
            rngs,
            depth=depth - 1,
            bidirectional=False,
            dropout=dropout,
        )
        inputs = units + features + width
        axes = ("recurrent", "embed")
        self.readout = linear(inputs, width, axes, numerics, rngs, std=inputs**-0.5, use_bias=True)
        self.kind, self.units, self.dropout_rate = recurrence, units, dropout
        self.vocabulary_size = vocabulary_size

    def encode(
        self, source_BS: jax.Array, *, segments_BS: jax.Array, dropout_key: jax.Array | None = None
    ) -> Memory:
        """Encode a source, int32 [B, S], into the `memory` argument of `hidden`.

        A memory contains the encoded vectors and their attention keys, the source mask and the
        decoder's initial hidden state. Positions of segment 0 are padding at the end of a row, and
        not visible to other positions.
        """
        keys = split_key(dropout_key)
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        x_BSD = apply_dropout(embedding.encode(source_BS), self.dropout_rate, keys[0])
        source_BSF, _ = self.encoder(x_BSD, segments_BT=segments_BS, dropout_key=keys[1])
        return {
            "source": source_BSF,
            "keys": self.first.attention.keys(source_BSF),
            "source_mask": segments_BS != 0,
            "start": jnp.tanh(self.start(source_BSF[:, 0, self.units :])),
        }

    def initial_state(self, memory: Memory, max_length: int) -> ModelState:
        """Return the state before the first target; `max_length` has no effect."""
        rows = memory["start"].shape[0]
        first = self.first.cell.initial_state(rows, max_length)
        return {
            "first": first | {"hidden": memory["start"].astype(jnp.float32)},
            "upper": self.upper.initial_state(rows, max_length),
        }

    def select(self, tree: Memory | ModelState, chosen_BK: jax.Array) -> Memory | ModelState:
        """Select rows of a memory or a state, with `model.layers.states.select_rows`."""
        return select_rows(tree, chosen_BK)

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
        keys = split_key(dropout_key, 4)
        before = state or self.initial_state(memory, tokens_BT.shape[1])
        x_BTD = apply_dropout(self.embedding.encode(tokens_BT), self.dropout_rate, keys[0])
        h_BTU, c_BTF, first = self.first(x_BTD, memory, before["first"])
        h_BTU = apply_dropout(h_BTU, self.dropout_rate, keys[1])
        upper = before["upper"]
        if self.upper.layers:
            above_BTX = jnp.concatenate([h_BTU, c_BTF], axis=-1)
            h_BTU, upper = self.upper(above_BTX, state=upper, dropout_key=keys[2])
        x_BTD = jnp.tanh(self.readout(jnp.concatenate([h_BTU, c_BTF, x_BTD], axis=-1)))
        x_BTD = constrain(
            apply_dropout(x_BTD, self.dropout_rate, keys[3]), "batch", "length", "width"
        )
        return x_BTD, None if state is None else {"first": first, "upper": upper}

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """Map the output of `hidden`, [B, T, D] to logits, float32 [B, T, V]."""
        return self.embedding.decode(x_BTD)
