"""A stack of recurrent layers without norms or residual connections.

Initial values: token table and head normal, 0.02; the recurrences as in model/decoder.py.

Axes: B batch, T length, D width.
"""

from typing import Any

import jax
from flax import nnx

from model.layers.dropout import apply_dropout, fold_key
from model.layers.numerics import Numerics
from model.layers.recurrence import Bidirectional, Recurrence
from model.layers.states import State, StateAxes
from model.tokens import TokenModel


class StackedRecurrence(nnx.Module):
    """A stack of `depth` recurrent layers, each followed by dropout (Zaremba et al. 2014,
    arXiv:1409.2329).

    `kind`: the cell, a key of `model.layers.recurrence.CELLS`.
    `units`: the number of cells in each layer and direction.

    The attribute `features` is the size of the output vectors.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        units: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        depth: int,
        bidirectional: bool,
        dropout: float,
    ):
        def layer(inputs: int) -> Bidirectional | Recurrence:
            if bidirectional:
                return Bidirectional(lambda: Recurrence(kind, inputs, units, numerics, rngs))
            return Recurrence(kind, inputs, units, numerics, rngs)

        self.features = 2 * units if bidirectional else units
        sizes = [width] + (depth - 1) * [self.features]
        self.layers = nnx.List([layer(inputs) for inputs in sizes])
        self.dropout_rate = dropout

    def initial_state(self, batch_size: int, max_length: int) -> list[State]:
        """Return the state of every layer before the first position."""
        return [layer.initial_state(batch_size, max_length) for layer in self.layers]

    @property
    def state_axes(self) -> list[StateAxes]:
        """Return the logical axes of the arrays of the states, one entry for each layer."""
        return [layer.state_axes for layer in self.layers]

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[State] | None = None,
        segments_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[State] | None]:
        """Map [B, T, D] to [B, T, features]; also return the new states (None without `state`)."""
        after: list[State] = []
        for number, layer in enumerate(self.layers):
            before = None if state is None else state[number]
            x_BTD, layer_state = layer(x_BTD, state=before, segments_BT=segments_BT)
            key = fold_key(dropout_key, number)
            x_BTD = apply_dropout(x_BTD, self.dropout_rate, key)
            if layer_state is not None:
                after.append(layer_state)
        return x_BTD, None if state is None else after


class RNN(TokenModel):
    """A recurrent language model, or a classifier if `num_classes` is given.

    Takes the hyperparameters of `TokenModel` and `StackedRecurrence`, except that `kind` is called
    `recurrence` and `units` equals `width`. Only a classifier may be `bidirectional`.
    """

    def make_body(
        self, numerics: Numerics, rngs: nnx.Rngs, *, width: int, recurrence: str, **layers: Any
    ) -> None:
        self.backbone = StackedRecurrence(recurrence, width, width, numerics, rngs, **layers)
