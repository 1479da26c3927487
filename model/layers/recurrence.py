"""Recurrence along the length of a sequence.

Axes: B batch, T length, D width of the input, U units, 4 the gates (input, forget, cell, output).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.positions import segment_starts
from model.layers.sharding import constrain, named

State = dict[str, jax.Array]


class LSTM(nnx.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; with the forget gate of Gers et
    al. 2000, its bias starting at 1 as in Jozefowicz et al. 2015).

        i, f, g, o = W x_t + R h_(t-1) + b
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
        h_t = sigmoid(o) tanh(c_t)

    W x is one product over all positions, before the scan. The gates are a dimension of their own,
    so that units, and not gates, are split over devices.
    """

    def __init__(
        self, width: int, units: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.units, self.dtype = units, jnp.dtype(dtype)
        param_dtype = jnp.dtype(param_dtype)
        axes = named("embed", None, "recurrent")

        def kernel(initializer: nnx.Initializer, inputs: int) -> nnx.Param:
            flat = initializer(rngs.params(), (inputs, 4 * units), param_dtype)
            return nnx.Param(flat.reshape(inputs, 4, units), **axes)

        self.input_kernel = kernel(nnx.initializers.lecun_normal(), width)
        self.recurrent_kernel = kernel(nnx.initializers.orthogonal(), units)
        bias_4U = jnp.zeros((4, units), param_dtype).at[1].set(1)
        self.bias = nnx.Param(bias_4U, **named(None, "recurrent"))

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Zeros: `hidden` and `cell`, float32 [B, U]; `max_length` is of no matter here."""
        zeros_BU = jnp.zeros((batch_size, self.units), jnp.float32)
        return {"hidden": zeros_BU, "cell": zeros_BU}

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: State | None = None,
        segments_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, State | None]:
        """[B, T, D] -> [B, T, U], and the state after it.

        Without a state: whole sequences; with `segments_BT` (int32 [B, T]) the state is reset
        where a segment starts. With a state: the next T positions of each row. Positions of
        segment 0 leave the state as it is.
        """
        gates_BT4U = jnp.einsum("BTD,DGU->BTGU", x_BTD, self.input_kernel[...].astype(self.dtype))
        gates_BT4U = gates_BT4U + self.bias[...].astype(self.dtype)
        gates_TB4U = constrain(gates_BT4U, "batch", "length", None, "recurrent").swapaxes(0, 1)
        # Gathered here, once, where its rows are split over devices; not in every step.
        kernel_U4U = constrain(
            self.recurrent_kernel[...].astype(self.dtype), None, None, "recurrent"
        )
        carry = state if state is not None else self.initial_state(x_BTD.shape[0], x_BTD.shape[1])
        resets_TB = keeps_TB = None
        if segments_BT is not None:
            keeps_TB = (segments_BT == 0).T
            resets_TB = (segment_starts(segments_BT).T & ~keeps_TB) if state is None else None

        def step(carry: State, inputs) -> tuple[State, jax.Array]:
            gates_B4U, reset_B, keep_B = inputs
            hidden_BU, cell_BU = carry["hidden"], carry["cell"]
            if reset_B is not None:
                hidden_BU = jnp.where(reset_B[:, None], 0, hidden_BU)
                cell_BU = jnp.where(reset_B[:, None], 0, cell_BU)
            gates_B4U = gates_B4U + jnp.einsum(
                "BU,UGV->BGV", hidden_BU.astype(self.dtype), kernel_U4U
            )
            i, f, g, o = (gates_B4U[:, n].astype(jnp.float32) for n in range(4))
            next_cell_BU = nnx.sigmoid(f) * cell_BU + nnx.sigmoid(i) * jnp.tanh(g)
            next_hidden_BU = nnx.sigmoid(o) * jnp.tanh(next_cell_BU)
            if keep_B is not None:
                next_cell_BU = jnp.where(keep_B[:, None], cell_BU, next_cell_BU)
                next_hidden_BU = jnp.where(keep_B[:, None], hidden_BU, next_hidden_BU)
            return {"hidden": next_hidden_BU, "cell": next_cell_BU}, next_hidden_BU

        carry, y_TBU = jax.lax.scan(step, carry, (gates_TB4U, resets_TB, keeps_TB))
        y_BTU = constrain(y_TBU.swapaxes(0, 1).astype(self.dtype), "batch", "length", "width")
        return y_BTU, None if state is None else carry
