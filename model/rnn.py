"""The plain stacked recurrent network: layers of cells on top of each other, and nothing else.

Initial values: token table and head normal, 0.02; the recurrences as in model/decoder.py.

Axes: B batch, T length, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.dropout import dropout as drop
from model.layers.recurrence import Bidirectional, Recurrence
from model.tokens import TokenModel

LayerState = dict[str, jax.Array]


class StackedRecurrence(nnx.Module):
    """`depth` layers of `units` cells, one or both ways, with dropout after each (Zaremba et al.
    2014, arXiv:1409.2329)."""

    def __init__(
        self,
        kind: str,
        width: int,
        units: int,
        *,
        depth: int,
        bidirectional: bool,
        dropout: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}

        def layer(inputs: int) -> nnx.Module:
            if bidirectional:
                return Bidirectional(lambda: Recurrence(kind, inputs, units, **numbers))
            return Recurrence(kind, inputs, units, **numbers)

        self.features = 2 * units if bidirectional else units
        sizes = [width] + (depth - 1) * [self.features]
        self.layers = nnx.List([layer(inputs) for inputs in sizes])
        self.dropout_rate = dropout

    def initial_state(self, batch_size: int, max_length: int) -> list[LayerState]:
        """The state of every layer before the first position."""
        return [layer.initial_state(batch_size, max_length) for layer in self.layers]

    def reset(self, state: list[LayerState], rows_B: jax.Array) -> list[LayerState]:
        """`state` with the rows that `rows_B` (bool [B]) names as before their first position."""
        return jax.tree.map(lambda x_BU: jnp.where(rows_B[:, None], 0, x_BU), state)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[LayerState] | None = None,
        segments_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[LayerState] | None]:
        """[B, T, D] -> [B, T, features], and the states after it."""
        after = []
        for number, layer in enumerate(self.layers):
            before = None if state is None else state[number]
            x_BTD, layer_state = layer(x_BTD, state=before, segments_BT=segments_BT)
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
            x_BTD = drop(x_BTD, self.dropout_rate, key)
            after.append(layer_state)
        return x_BTD, None if state is None else after


class RNN(TokenModel):
    """A recurrent language model, or with `num_classes` a classifier, which alone may be
    `bidirectional`. `recurrence`: a kind of `model.layers.recurrence.CELLS`."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        recurrence: str,
        bidirectional: bool,
        tied_embeddings: bool,
        dropout: float,
        pooling: str,
        vocabulary_size: int,
        max_length: int,
        num_classes: int | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(
            lambda: StackedRecurrence(
                recurrence,
                width,
                width,
                depth=depth,
                bidirectional=bidirectional,
                dropout=dropout,
                **numbers,
            ),
            width=width,
            features=2 * width if bidirectional else width,
            learned_positions=False,
            has_bounded_context=False,
            tied_embeddings=tied_embeddings,
            logit_soft_cap=None,
            dropout=dropout,
            pooling=pooling,
            vocabulary_size=vocabulary_size,
            max_length=max_length,
            num_classes=num_classes,
            **numbers,
        )
