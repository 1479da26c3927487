"""Depthwise convolution along a sequence, and the convolutional mixer.

Axes: B batch, T length, D width, C channels, K taps of the kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.sharding import constrain, named
from model.layers.states import State, StateAxes


class DepthwiseConvolution(nnx.Module):
    """Convolves each channel with its own kernel of K = `size` taps.

        y_t = b + sum over k of kernel_k x_(t - K + 1 + k)      causal
        y_t = b + sum over k of kernel_k x_(t - K // 2 + k)     otherwise (centred)

    This is computed as a sum of shifted copies, which XLA fuses into one pass; a grouped
    convolution is slow on CPUs. Initial values: kernel normal with variance 1 / K, bias 0.

    `axis`: the logical name of the channels.
    """

    def __init__(
        self,
        channels: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        size: int,
        causal: bool,
        axis: str,
        use_bias: bool = True,
    ):
        param_dtype, normal = numerics.param_dtype, nnx.initializers.normal(size**-0.5)
        kernel_KC = normal(rngs.params(), (size, channels), param_dtype)
        self.kernel = nnx.Param(kernel_KC, **named(None, axis))
        self.bias = nnx.data(None)
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(channels, param_dtype), **named(axis))
        self.channels, self.size, self.causal = channels, size, causal
        self.axis, self.dtype = axis, numerics.dtype

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return zeros [B, K - 1, C], the inputs before the first position.

        Raises ValueError if the convolution is not causal.
        """
        if not self.causal:
            raise ValueError("a convolution that looks ahead has no state")
        return {"inputs": jnp.zeros((batch_size, self.size - 1, self.channels), self.dtype)}

    @property
    def state_axes(self) -> StateAxes:
        """Return the logical axes of the arrays of a state."""
        return {"inputs": ("batch", None, self.axis)}

    def __call__(
        self, x_BTC: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, C] to [B, T, C]; also return the new state.

        Arguments: see `model.backbone`.
        """
        T, before = x_BTC.shape[1], self.size - 1 if self.causal else self.size // 2
        edges = (before, self.size - 1 - before)
        if state is None:
            padded_BSC = jnp.pad(x_BTC, ((0, 0), edges, (0, 0)))
        else:
            padded_BSC = jnp.concatenate([state["inputs"].astype(x_BTC.dtype), x_BTC], axis=1)
        segments_BS = None
        if state is None and segments_BT is not None:
            segments_BS = jnp.pad(segments_BT, ((0, 0), edges), constant_values=-1)
        y_BTC: Any = 0 if self.bias is None else self.bias[...].astype(self.dtype)
        for k, kernel_C in enumerate(self.kernel[...].astype(self.dtype)):
            tap_BTC = kernel_C * padded_BSC[:, k : k + T]
            if segments_BS is not None and segments_BT is not None and k != before:
                same_BT = segments_BS[:, k : k + T] == segments_BT
                tap_BTC = jnp.where(same_BT[:, :, None], tap_BTC, 0)
            y_BTC = y_BTC + tap_BTC
        if state is None:
            return y_BTC, None
        if segments_BT is None:
            return y_BTC, {"inputs": padded_BSC[:, T:]}
        length_B = jnp.sum(segments_BT != 0, axis=1)
        last_BK = length_B[:, None] + jnp.arange(self.size - 1)
        return y_BTC, {"inputs": jnp.take_along_axis(padded_BSC, last_BK[:, :, None], axis=1)}


class GatedConvolution(nnx.Module):
    """The convolutional mixer: out(convolution(value(x)) · sigmoid(gate(x))), the gated linear unit
    of Dauphin et al. 2017, arXiv:1612.08083, eq. 1, with a depthwise convolution of `size` taps.

    `residual_std`: the standard deviation of the output kernel's initial values.
    """

    def __init__(
        self,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        size: int,
        causal: bool,
        use_bias: bool,
        residual_std: float,
    ):
        axes = ("embed", "channels_out")
        self.value = linear(width, width, axes, numerics, rngs, use_bias=use_bias)
        self.gate = linear(width, width, axes, numerics, rngs, use_bias=use_bias)
        self.convolution = DepthwiseConvolution(
            width, numerics, rngs, size=size, causal=causal, axis="channels_out"
        )
        self.out = linear(
            width, width, axes[::-1], numerics, rngs, std=residual_std, use_bias=use_bias
        )

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return the state of the convolution before the first position."""
        return self.convolution.initial_state(batch_size, max_length)

    @property
    def state_axes(self) -> StateAxes:
        """Return the logical axes of the arrays of a state."""
        return self.convolution.state_axes

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] to [B, T, D]; also return the new state.

        Arguments: see `model.backbone`.
        """
        value_BTC = constrain(self.value(x_BTD), "batch", "length", "channels_out")
        gate_BTC = nnx.sigmoid(constrain(self.gate(x_BTD), "batch", "length", "channels_out"))
        y_BTC, state = self.convolution(value_BTC, state=state, segments_BT=segments_BT)
        return constrain(self.out(y_BTC * gate_BTC), "batch", "length", "width"), state
