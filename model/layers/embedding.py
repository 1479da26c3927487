"""Embedding tables: token ids to vectors, and vectors to logits.

Axes: B batch, T length, D width, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.int8 import Int8Kernel, int8_product
from model.layers.linear import WEIGHT_STD, logits_head
from model.layers.numerics import Numerics, Precision
from model.layers.sharding import constrain, named


def embedding_table(
    count: int, width: int, axis: str | None, numerics: Numerics, rngs: nnx.Rngs
) -> nnx.Embed:
    """Make a table of `count` vectors of size `width`, initialised normal with standard deviation
    0.02. `axis`: the logical name of the dimension of size `count`."""
    return nnx.Embed(
        count,
        width,
        embedding_init=nnx.initializers.normal(WEIGHT_STD),
        embedding_metadata=named(axis, "embed"),
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


class TokenTypes(nnx.Module):
    """A learned vector for each token type. BERT distinguishes the two texts of a pair by their
    types (Devlin et al. 2019, arXiv:1810.04805, section 3); a single text has the first type."""

    def __init__(self, count: int, width: int, numerics: Numerics, rngs: nnx.Rngs):
        self.table = embedding_table(count, width, None, numerics, rngs)

    def __call__(self) -> jax.Array:
        """Return the vector to add to each token of a single text, [D]."""
        return self.table.embedding[...][0].astype(self.table.dtype)


class TokenEmbedding(nnx.Module):
    """The table of token vectors, and the head that maps vectors to token logits.

    If `tied`, the head is the transposed table (Press and Wolf 2017, arXiv:1608.05859); otherwise
    the head has its own kernel. For inference the table may be an `Int8Kernel` [D, V], the
    kernel of a head.
    """

    def __init__(
        self, vocabulary_size: int, width: int, numerics: Numerics, rngs: nnx.Rngs, *, tied: bool
    ):
        self.dtype, self.precision = numerics.dtype, numerics.precision
        self.tokens = embedding_table(vocabulary_size, width, "vocabulary", numerics, rngs)
        self.head = nnx.data(None)
        if not tied:
            axes = ("embed", "vocabulary")
            self.head = logits_head(width, vocabulary_size, axes, numerics, rngs, use_bias=False)

    def encode(self, tokens_BT: jax.Array) -> jax.Array:
        """Map token ids, int32 [B, T] to [B, T, D]."""
        table_VD = self.tokens.embedding[...]
        if isinstance(table_VD, Int8Kernel):
            values_DBT = jnp.take(table_VD.values, tokens_BT, axis=1)
            x_BTD = jnp.moveaxis(values_DBT, 0, -1) * table_VD.scale[tokens_BT][..., None]
            return constrain(x_BTD.astype(self.dtype), "batch", "length", "width")
        # The width is not sharded, so that the device with a row reads the whole row.
        table_VD = constrain(table_VD, "vocabulary", None).astype(self.dtype)
        return constrain(jnp.take(table_VD, tokens_BT, axis=0), "batch", "length", "width")

    def decode(self, x_BTD: jax.Array) -> jax.Array:
        """Map [B, T, D] to logits, float32 [B, T, V]."""
        if self.head is not None:
            logits_BTV = self.head(x_BTD)
        else:
            table_VD = self.tokens.embedding[...]
            if isinstance(table_VD, Int8Kernel):
                logits_BTV = int8_product(x_BTD, table_VD)
            else:
                logits_BTV = _decode_tied(self.precision, x_BTD, table_VD.astype(self.dtype))
        return constrain(logits_BTV, "batch", "length", "vocabulary")


def soft_capped(logits: jax.Array, cap: float | None) -> jax.Array:
    """Bound the logits to ±cap: cap · tanh(logits / cap) (Gemma Team 2024, arXiv:2408.00118,
    section 2). If `cap` is None, return them unchanged."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _decode_tied(precision: Precision, x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """Multiply vectors by the transposed table: logits, float32 [B, T, V].

    JAX computes the gradient of a kernel [D, V] as a product [V, D] and then transposes it.
    `parallel/onednn.py` relies on this. For the table [V, D] JAX would not transpose, so this
    backward pass computes a product [D, V] and transposes it.
    """
    return jnp.einsum(
        "BTD,VD->BTV", x_BTD, table_VD, precision=precision, preferred_element_type=jnp.float32
    )


def _decode_tied_forward(precision, x_BTD, table_VD):
    return _decode_tied(precision, x_BTD, table_VD), (x_BTD, table_VD)


def _decode_tied_backward(precision, residuals, logits_BTV):
    x_BTD, table_VD = residuals
    product = functools.partial(
        jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32
    )
    kernel_DV = product(x_BTD, logits_BTV, (((0, 1), (0, 1)), ((), ())))
    x_gradient_BTD = product(logits_BTV, table_VD, (((2,), (0,)), ((), ())))
    return x_gradient_BTD.astype(x_BTD.dtype), kernel_DV.T.astype(table_VD.dtype)


_decode_tied.defvjp(_decode_tied_forward, _decode_tied_backward)
