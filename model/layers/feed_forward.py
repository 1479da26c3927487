"""The position-wise part of a block.

Axes: B batch, T length, D width, F feed-forward width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from model.layers.activations import captured
from model.layers.linear import linear
from model.layers.sharding import constrain


def feed_forward_width(kind: str, width: int) -> int:
    """The usual hidden width: 4 · width; for "swiglu", whose third kernel has to be paid for,
    8/3 · width rounded up to a multiple of 8."""
    return -(-8 * width // 24) * 8 if kind == "swiglu" else 4 * width


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    Written out in float32, its derivative Φ(x) + x φ(x) too: on a CPU, forward and backward of the
    library's erfc and tanh forms take 1.4 to 1.8 times as long for the whole of a feed-forward
    part; and nothing but x is kept for the backward pass.
    """
    x_float32 = x.astype(jnp.float32)
    return (x_float32 * _normal_distribution(x_float32)).astype(x.dtype)


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    x_float32 = jax.lax.optimization_barrier(x).astype(jnp.float32)  # or Φ(x) would be kept
    density = jnp.exp(-0.5 * x_float32**2) * (2 * jnp.pi) ** -0.5
    slope = _normal_distribution(x_float32) + x_float32 * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


def _normal_distribution(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, the approximation of `gelu` that GPT-2 was
    trained with; it differs by up to 5e-4."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": nnx.relu,
    "swish": nnx.silu,
    "swiglu": nnx.silu,
}
"""What each kind of feed-forward part bends its hidden numbers with."""


class FeedForward(nnx.Module):
    """`kind` "gelu", "gelu_tanh", "relu" or "swish": down(gelu(up(x))); "swiglu":
    down(silu(gate(x)) · up(x)), Shazeer 2020, arXiv:2002.05202, eq. 6.

    `residual_std` is the standard deviation of the last kernel's initial values.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        hidden_width: int,
        *,
        use_bias: bool,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if kind not in ACTIVATIONS:
            choices = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"feed_forward {kind!r}: choose {choices}")
        common = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        inward = ((width,), (hidden_width,), ("embed", "mlp"))
        self.gate = linear(*inward, **common) if kind == "swiglu" else nnx.data(None)
        self.up = linear(*inward, **common)
        self.activation = ACTIVATIONS[kind]
        self.down = linear((hidden_width,), (width,), ("mlp", "embed"), std=residual_std, **common)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        h_BTF = checkpoint_name(self.up(x_BTD), "feed_forward")
        if self.gate is None:
            h_BTF = captured(self.activation(h_BTF))
        else:
            gate_BTF = checkpoint_name(self.gate(x_BTD), "feed_forward")
            h_BTF = captured(self.activation(gate_BTF)) * h_BTF
        return self.down(constrain(h_BTF, "batch", "length", "mlp"))
