"""From token numbers to vectors, and from vectors to logits.

Axes: B batch, T length, D width, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.linear import WEIGHT_STD, linear
from model.layers.sharding import constrain, named


class TokenTypes(nnx.Module):
    """A vector for each kind of token, as BERT has them for the first and the second of two texts
    (Devlin et al. 2019, arXiv:1810.04805, section 3). A text alone is of the first kind."""

    def __init__(
        self,
        count: int,
        width: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.table = nnx.Embed(
            count,
            width,
            embedding_init=nnx.initializers.normal(WEIGHT_STD),
            embedding_metadata=named(None, "embed"),
            dtype=jnp.dtype(dtype),
            param_dtype=jnp.dtype(param_dtype),
            rngs=rngs,
        )

    def __call__(self) -> jax.Array:
        """What to add to each token of a text. [D]"""
        return self.table.embedding[...][0].astype(self.table.dtype)


class TokenEmbedding(nnx.Module):
    """The table of token vectors, and the head that reads tokens out again.

    With `tied` the head is the transposed table (Press and Wolf 2017, arXiv:1608.05859);
    otherwise it has a kernel of its own.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        *,
        tied: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = jnp.dtype(dtype)
        self.tokens = nnx.Embed(
            vocabulary_size,
            width,
            embedding_init=nnx.initializers.normal(WEIGHT_STD),
            embedding_metadata=named("vocabulary", "embed"),
            dtype=self.dtype,
            param_dtype=jnp.dtype(param_dtype),
            rngs=rngs,
        )
        self.head = nnx.data(None)
        if not tied:
            self.head = linear(
                (width,),
                (vocabulary_size,),
                ("embed", "vocabulary"),
                preferred_element_type=jnp.float32,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

    def encode(self, tokens_BT: jax.Array) -> jax.Array:
        """int32 [B, T] -> [B, T, D]."""
        # Whole along the width: rows are looked up where their token is, not gathered in parts.
        table_VD = constrain(self.tokens.embedding[...], "vocabulary", None).astype(self.dtype)
        return constrain(jnp.take(table_VD, tokens_BT, axis=0), "batch", "length", "width")

    def decode(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> logits, float32 [B, T, V]."""
        if self.head is not None:
            logits_BTV = self.head(x_BTD)
        else:
            table_VD = self.tokens.embedding[...].astype(self.dtype)
            logits_BTV = _decode_tied(x_BTD, table_VD)
        return constrain(logits_BTV, "batch", "length", "vocabulary")


@jax.custom_vjp
def _decode_tied(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
    """Logits, float32 [B, T, V].

    JAX derives every kernel's gradient transposed and turns it round, as oneDNN's products expect
    (parallel/onednn.py). A table is a transposed kernel, so its gradient is turned round here.
    """
    return jnp.einsum("BTD,VD->BTV", x_BTD, table_VD, preferred_element_type=jnp.float32)


def _decode_tied_forward(x_BTD, table_VD):
    return _decode_tied(x_BTD, table_VD), (x_BTD, table_VD)


def _decode_tied_backward(residuals, logits_BTV):
    x_BTD, table_VD = residuals
    product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    kernel_DV = product(x_BTD, logits_BTV, (((0, 1), (0, 1)), ((), ())))
    x_gradient_BTD = product(logits_BTV, table_VD, (((2,), (0,)), ((), ())))
    return x_gradient_BTD.astype(x_BTD.dtype), kernel_DV.T.astype(table_VD.dtype)


_decode_tied.defvjp(_decode_tied_forward, _decode_tied_backward)
