"""The gated linear recurrence of Griffin, computed by an associative scan over the positions.

Axes: B batch, T length, D width, U units.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.feed_forward import gelu
from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.positions import segment_starts
from model.layers.sharding import Axes, constrain, named
from model.layers.short_convolution import DepthwiseConvolution
from model.layers.states import State, StateAxes

TAPS = 4
"""The kernel size of the causal convolution before the recurrence."""

SHARPNESS = 8.0
"""The constant c of the paper, which multiplies the recurrence gate."""

SMALLEST = 1e-6
"""The lower bound of 1 - a^2."""


class RGLRU(nnx.Module):
    """Griffin's recurrent block (De et al. 2024, arXiv:2402.19427, section 2.4, eq. 1 to 6).

        u = convolution(W_u x)                      causal, depthwise
        r, i = sigmoid(W u + b)
        a_t = sigmoid(L) ^ (8 r_t)
        h_t = a_t h_(t-1) + sqrt(1 - a_t^2) (i_t u_t)
        y = W_y (gelu(W_g x) h)

    L is initialised so that sigmoid(L)^8 is uniform between 0.9 and 0.999. The recurrence is
    computed in float32.

    `residual_std`: the standard deviation of the output kernel's initial values.
    """

    def __init__(
        self,
        width: int,
        units: int,
        width_out: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        use_bias: bool,
        residual_std: float,
    ):
        inward = (width, units, ("embed", "recurrent"))
        self.input = linear(*inward, numerics, rngs, use_bias=use_bias)
        self.gate = linear(*inward, numerics, rngs, use_bias=use_bias)
        self.convolution = DepthwiseConvolution(
            units, numerics, rngs, size=TAPS, causal=True, axis="recurrent"
        )
        axes: Axes = ("embed", None, "recurrent")
        self.gates = linear(units, (2, units), axes, numerics, rngs, std=units**-0.5, use_bias=True)
        even_U = jax.random.uniform(rngs.params(), (units,), jnp.float32, 0.9, 0.999)
        share_U = even_U ** (1 / SHARPNESS)
        self.decay = nnx.Param(
            jnp.log(share_U / (1 - share_U)).astype(numerics.param_dtype), **named("recurrent")
        )
        axes = ("recurrent", "embed")
        self.out = linear(
            units, width_out, axes, numerics, rngs, std=residual_std, use_bias=use_bias
        )
        self.units, self.dtype = units, numerics.dtype

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return zeros: `hidden` float32 [B, U], and the convolution's `inputs`."""
        hidden_BU = jnp.zeros((batch_size, self.units), jnp.float32)
        return {"hidden": hidden_BU, **self.convolution.initial_state(batch_size, max_length)}

    @property
    def state_axes(self) -> StateAxes:
        """Return the logical axes of the arrays of a state."""
        return {"hidden": ("batch", "recurrent"), **self.convolution.state_axes}

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] to [B, T, width_out]; also return the new state.

        Arguments: see `model.backbone`.
        """
        u_BTU = constrain(self.input(x_BTD), "batch", "length", "recurrent")
        inputs = None if state is None else {"inputs": state["inputs"]}
        u_BTU, inputs = self.convolution(u_BTU, state=inputs, segments_BT=segments_BT)
        gates_BT2U = nnx.sigmoid(self.gates(u_BTU).astype(jnp.float32))
        r_BTU, i_BTU = gates_BT2U[:, :, 0], gates_BT2U[:, :, 1]
        log_a_BTU = SHARPNESS * r_BTU * jax.nn.log_sigmoid(self.decay[...].astype(jnp.float32))
        a_BTU = jnp.exp(log_a_BTU)
        # sqrt(1 - a^2), without cancellation near a = 1 and with a bounded derivative.
        share_BTU = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a_BTU), SMALLEST))
        b_BTU = share_BTU * i_BTU * u_BTU.astype(jnp.float32)
        if segments_BT is not None:
            real_BT1 = (segments_BT != 0)[:, :, None]
            if state is None:
                a_BTU = jnp.where(segment_starts(segments_BT)[:, :, None], 0, a_BTU)
            a_BTU, b_BTU = jnp.where(real_BT1, a_BTU, 1), jnp.where(real_BT1, b_BTU, 0)
        if state is not None:
            b_BTU = b_BTU.at[:, 0].add(a_BTU[:, 0] * state["hidden"])
        _, h_BTU = jax.lax.associative_scan(_compose, (a_BTU, b_BTU), axis=1)
        y_BTU = gelu(constrain(self.gate(x_BTD), "batch", "length", "recurrent"))
        y_BTD = constrain(self.out(y_BTU * h_BTU.astype(self.dtype)), "batch", "length", "width")
        return y_BTD, None if inputs is None else {"hidden": h_BTU[:, -1], **inputs}


def _compose(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]):
    """Compose two maps h -> a h + b: `first`, then `second`, each as (a, b)."""
    (a, b), (c, d) = first, second
    return a * c, b * c + d
