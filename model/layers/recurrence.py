"""Recurrent layers in one or both directions: Elman network, LSTM and GRU.

Axes: B batch, T length, D width of the input, U units, G gates.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.int8 import Int8Kernel, Kernel, multiply
from model.layers.numerics import Numerics, Precision
from model.layers.positions import segment_starts
from model.layers.sharding import constrain, named
from model.layers.states import State, StateAxes

LECUN_NORMAL = nnx.initializers.lecun_normal()


@dataclass(frozen=True)
class Cell:
    """A kind of recurrent cell: `step(gates, state) -> state`, with arrays float32 [B, U].

    `bias`: the initial bias of each gate.
    `inputs`: the number of gates, counted from the last, to which W x_t is added.
    `recurrent`: the number of gates, counted from the first, to which R h_(t-1) is added.
    `state`: the names of the arrays in the state, including "hidden".
    """

    bias: tuple[float, ...]
    inputs: int
    recurrent: int
    state: tuple[str, ...]
    step: Callable[[Sequence[jax.Array], State], State]


def _elman(activation: Callable[[jax.Array], jax.Array]) -> Cell:
    """Make an Elman cell: h_t = activation(W x_t + R h_(t-1) + b) (Elman 1990)."""
    return Cell((0.0,), 1, 1, ("hidden",), lambda gates, state: {"hidden": activation(gates[0])})


def _lstm(gates: Sequence[jax.Array], state: State) -> State:
    """Advance an LSTM by one step (Hochreiter and Schmidhuber 1997). The forget gate is from Gers
    et al. 2000; its bias starts at 1, as in Jozefowicz et al. 2015.

        i, f, g, o = W x_t + R h_(t-1) + b
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
        h_t = sigmoid(o) tanh(c_t)
    """
    i, f, g, o = gates
    cell = nnx.sigmoid(f) * state["cell"] + nnx.sigmoid(i) * jnp.tanh(g)
    return {"hidden": nnx.sigmoid(o) * jnp.tanh(cell), "cell": cell}


def _gru(gates: Sequence[jax.Array], state: State) -> State:
    """Advance a GRU by one step (Cho et al. 2014, arXiv:1406.1078). The reset gate r is applied
    after the product with R_n, as in cuDNN.

        r, z = sigmoid(W x_t + R h_(t-1) + b)
        n = tanh(W_n x_t + b_n + r (R_n h_(t-1) + b_h))
        h_t = (1 - z) n + z h_(t-1)
    """
    from_hidden, r, z, from_input = gates
    new = jnp.tanh(from_input + nnx.sigmoid(r) * from_hidden)
    update = nnx.sigmoid(z)
    return {"hidden": (1 - update) * new + update * state["hidden"]}


CELLS: dict[str, Cell] = {
    "elman": _elman(jnp.tanh),
    "elman_relu": _elman(nnx.relu),
    "lstm": Cell((0.0, 1.0, 0.0, 0.0), 4, 4, ("hidden", "cell"), _lstm),
    "gru": Cell((0.0, 0.0, 0.0, 0.0), 3, 3, ("hidden",), _gru),
}


def gate_kernel(
    shape: tuple[int, int, int],
    numerics: Numerics,
    rngs: nnx.Rngs,
    initializer: nnx.Initializer = LECUN_NORMAL,
) -> nnx.Param:
    """Make a kernel of `shape` [inputs, G, U], initialised as a matrix [inputs, G · U]."""
    inputs, gates, units = shape
    flat = initializer(rngs.params(), (inputs, gates * units), numerics.param_dtype)
    return nnx.Param(flat.reshape(shape), **named("embed", None, "recurrent"))


class Recurrence(nnx.Module):
    """A recurrent layer of `units` cells.

    `kind`: a key of `CELLS`. Raises ValueError for an unknown kind.

    W x is computed for all positions at once, before the scan. Gates are a separate dimension of
    the kernels, so that the units can be sharded and the gates are not.
    """

    def __init__(self, kind: str, width: int, units: int, numerics: Numerics, rngs: nnx.Rngs):
        if kind not in CELLS:
            raise ValueError(f"recurrence {kind!r}: choose from {sorted(CELLS)}")
        self.kind, self.units = kind, units
        self.dtype, self.precision = numerics.dtype, numerics.precision
        cell = CELLS[kind]
        self.input_kernel = gate_kernel((width, cell.inputs, units), numerics, rngs)
        self.recurrent_kernel = gate_kernel(
            (units, cell.recurrent, units), numerics, rngs, nnx.initializers.orthogonal()
        )
        bias_GU = jnp.broadcast_to(jnp.asarray(cell.bias)[:, None], (len(cell.bias), units))
        self.bias = nnx.Param(bias_GU.astype(numerics.param_dtype), **named(None, "recurrent"))

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return zeros, float32 [B, U] each; `max_length` has no effect."""
        zeros_BU = jnp.zeros((batch_size, self.units), jnp.float32)
        return dict.fromkeys(CELLS[self.kind].state, zeros_BU)

    def gates(self, x_BTD: jax.Array) -> jax.Array:
        """Compute W x + b for every gate, [T, B, G, U], in the order that `jax.lax.scan` needs."""
        x_TBD = x_BTD.swapaxes(0, 1)  # The input is transposed: it is smaller than the output.
        gates_TBGU = multiply(x_TBD, self.input_kernel[...], self.dtype, self.precision)
        bias_GU = self.bias[...].astype(self.dtype)
        gates_TBGU = with_all_gates(self.kind, gates_TBGU) + bias_GU
        return constrain(gates_TBGU, "length", "batch", None, "recurrent")

    @property
    def state_axes(self) -> StateAxes:
        """Return the logical axes of the arrays of a state."""
        return dict.fromkeys(CELLS[self.kind].state, ("batch", "recurrent"))

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] to [B, T, U]; also return the new state.

        Arguments: see `model.backbone`.
        """
        gates_TBGU = self.gates(x_BTD)
        kernel_UGU = gathered_rows(self.recurrent_kernel[...], self.dtype)
        before = state or self.initial_state(x_BTD.shape[0], x_BTD.shape[1])
        keeps_TB = resets_TB = None
        if segments_BT is not None:
            keeps_TB = (segments_BT == 0).T
            resets_TB = segment_starts(segments_BT).T & ~keeps_TB if state is None else None
        inputs = (gates_TBGU, kernel_UGU, before, resets_TB, keeps_TB)
        y_TBU, after = _recur(self.kind, self.precision, *inputs)
        y_BTU = constrain(y_TBU.swapaxes(0, 1).astype(self.dtype), "batch", "length", "width")
        return y_BTU, None if state is None else after


def with_all_gates(kind: str, gates_xGU: jax.Array) -> jax.Array:
    """Return W x of all gates. `gates_xGU` has only the gates with an input; zeros for the others
    are put before them."""
    without_input = len(CELLS[kind].bias) - gates_xGU.shape[-2]
    if not without_input:
        return gates_xGU
    return jnp.pad(gates_xGU, [(0, 0)] * (gates_xGU.ndim - 2) + [(without_input, 0), (0, 0)])


def gathered_rows(kernel_DGU: Kernel, dtype: DTypeLike) -> Kernel:
    """Convert a kernel [D, G, U] to `dtype` (an `Int8Kernel` stays as it is), and gather its rows
    if they are sharded. Call this before a scan, so that the rows are gathered once and not at
    every step."""
    if isinstance(kernel_DGU, Int8Kernel):
        values_DGU = constrain(kernel_DGU.values, None, None, "recurrent")
        return Int8Kernel(values_DGU, kernel_DGU.scale)
    return constrain(kernel_DGU.astype(dtype), None, None, "recurrent")


def advance(
    kind: str, precision: Precision, gates_BGU: jax.Array, kernel_UGU: Kernel, state: State
) -> State:
    """Return the state after one step of the recurrence.

    kind: a key of `CELLS`.
    precision: as in `Numerics`.
    gates_BGU: W x + b of all gates.
    kernel_UGU: the recurrent kernel R, which multiplies the hidden state.
    """
    cell = CELLS[kind]
    dtype = gates_BGU.dtype
    recurrent_BGU = multiply(state["hidden"].astype(dtype), kernel_UGU, dtype, precision)
    if cell.recurrent == len(cell.bias):
        summed_BGU, rest_BGU = gates_BGU + recurrent_BGU, gates_BGU[:, :0]
    else:
        summed_BGU = gates_BGU[:, : cell.recurrent] + recurrent_BGU
        rest_BGU = gates_BGU[:, cell.recurrent :]
    gates = [x_BGU[:, g] for x_BGU in (summed_BGU, rest_BGU) for g in range(x_BGU.shape[1])]
    return cell.step([gate_BU.astype(jnp.float32) for gate_BU in gates], state)


class Bidirectional(nnx.Module):
    """Two layers created by `make`, which run over the sequence forwards and backwards; their
    outputs are concatenated (Schuster and Paliwal 1997)."""

    def __init__(self, make: Callable[[], nnx.Module]):
        self.forward, self.backward = make(), make()

    def initial_state(self, batch_size: int, max_length: int) -> State:
        raise ValueError("bidirectional recurrence has no state")

    @property
    def state_axes(self) -> StateAxes:
        raise ValueError("bidirectional recurrence has no state")

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """Map [B, T, D] to [B, T, 2 U]; the state is None. Segments do not see each other."""
        backward_BT = None if segments_BT is None else segments_BT[:, ::-1]
        forward_BTU, _ = self.forward(x_BTD, segments_BT=segments_BT)
        backward_BTU, _ = self.backward(x_BTD[:, ::-1], segments_BT=backward_BT)
        return jnp.concatenate([forward_BTU, backward_BTU[:, ::-1]], axis=-1), None


def _scan(
    kind: str,
    precision: Precision,
    gates_TBGU: jax.Array,
    kernel_UGU: Kernel,
    state: State,
    resets_TB: jax.Array | None,
    keeps_TB: jax.Array | None,
) -> tuple[jax.Array, State]:
    """Return the hidden state after each position, float32 [T, B, U], and the final state.

    `gates_TBGU` is W x + b of all gates. Where `resets_TB` is True, the state is zeroed before the
    position; where `keeps_TB` is True, the position does not change the state.
    """

    def step(state: State, inputs) -> tuple[State, jax.Array]:
        gates_BGU, reset_B, keep_B = inputs
        if reset_B is not None:
            state = jax.tree.map(lambda x_BU: jnp.where(reset_B[:, None], 0, x_BU), state)
        after = advance(kind, precision, gates_BGU, kernel_UGU, state)
        if keep_B is not None:
            after = jax.tree.map(lambda x, y: jnp.where(keep_B[:, None], x, y), state, after)
        return after, after["hidden"]

    after, y_TBU = jax.lax.scan(step, state, (gates_TBGU, resets_TB, keeps_TB))
    return y_TBU, after


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(kind, precision, gates_TBGU, kernel_UGU, state, resets_TB, keeps_TB):
    """Run `_scan`, with its own backward pass: the gradient of the recurrent kernel is one product
    over all positions instead of a sum over steps. This is 1.3 to 1.9 times as fast, and
    data-parallel devices exchange the gradient only once."""
    return _scan(kind, precision, gates_TBGU, kernel_UGU, state, resets_TB, keeps_TB)


def _recur_forward(kind, precision, gates_TBGU, kernel_UGU, state, resets_TB, keeps_TB):
    def scan(gates_TBGU, state):
        return _scan(kind, precision, gates_TBGU, kernel_UGU, state, resets_TB, keeps_TB)

    (y_TBU, after), backward = jax.vjp(scan, gates_TBGU, state)
    hidden_TBU = jnp.concatenate([state["hidden"][None], y_TBU[:-1]])
    if resets_TB is not None:
        hidden_TBU = jnp.where(resets_TB[:, :, None], 0, hidden_TBU)
    return (y_TBU, after), (backward, hidden_TBU.astype(kernel_UGU.dtype))


def _recur_backward(kind, precision, residuals, cotangents):
    backward, hidden_TBU = residuals
    gates_TBGU, state = backward(cotangents)
    # R h is added to the gates, so its cotangent is the gates' cotangent.
    product_TBGU = gates_TBGU[:, :, : CELLS[kind].recurrent]
    # Transposed afterwards, like every kernel's gradient in JAX (see parallel/onednn.py).
    kernel_GVU = jnp.tensordot(product_TBGU, hidden_TBU, axes=((0, 1), (0, 1)), precision=precision)
    kernel_UGU = jnp.moveaxis(kernel_GVU, -1, 0)
    return gates_TBGU, kernel_UGU, state, None, None


_recur.defvjp(_recur_forward, _recur_backward)
