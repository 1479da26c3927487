"""The decoder and the encoder of tokens, built from blocks with any mixers.

Initial values, based on GPT-2 (Radford et al. 2019); L is the depth:

    | parameter                                        | distribution                         |
    |--------------------------------------------------|--------------------------------------|
    | tables, heads, dense layers before a head        | normal, 0.02                         |
    | query, key, value, gate and up kernels           | normal, 0.02                         |
    | output kernel of a mixer or a feed-forward part  | normal, 0.02 / sqrt(2 L)             |
    | recurrence: input kernel                         | truncated normal, 1 / sqrt(width)    |
    | recurrence: recurrent kernel                     | orthogonal rows                      |
    | recurrence: bias                                 | 1 for a forget gate, otherwise 0     |
    | RG-LRU: gates; decay                             | normal, 1 / sqrt(units); see `RGLRU` |
    | depthwise kernel of K taps                       | normal, 1 / sqrt(K)                  |
    | scale of norms; other biases                     | 1; 0                                 |

Axes: B batch, T length, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.backbone import Backbone, BackboneSpec
from model.layers.embedding import TokenTypes
from model.layers.feed_forward import ACTIVATIONS
from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.sharding import constrain, named
from model.tokens import TokenModel

POSITIONS = ("rotary", "learned", "none")


class HeadTransform(nnx.Module):
    """BERT's head for tokens: decode(norm(activation(dense(x)))) + bias, where `decode` multiplies
    by the output embedding (the code of Devlin et al. 2019, arXiv:1810.04805).

    The norm and the activation are the same as in the blocks of `spec`.
    """

    def __init__(
        self, spec: BackboneSpec, vocabulary_size: int, numerics: Numerics, rngs: nnx.Rngs
    ):
        width, axes = spec.width, ("embed", "mlp")
        self.dense = linear(width, width, axes, numerics, rngs, use_bias=spec.use_bias)
        self.activation = ACTIVATIONS[spec.feed_forward]
        self.norm = spec.make_norm(numerics, rngs)
        zeros_V = jnp.zeros(vocabulary_size, numerics.param_dtype)
        self.bias = nnx.Param(zeros_V, **named("vocabulary"))

    def __call__(self, x_BTD: jax.Array, decode: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Map [B, T, D] to logits, float32 [B, T, V]. `decode` maps [B, T, D] to [B, T, V]."""
        x_BTD = self.norm(self.activation(self.dense(x_BTD)))
        logits_BTV = decode(constrain(x_BTD, "batch", "length", "width"))
        return logits_BTV + self.bias[...].astype(jnp.float32)


class Decoder(TokenModel):
    """A causal language model, or a causal classifier if `num_classes` is given.

    Takes the hyperparameters of `TokenModel`, `positions` (one of `POSITIONS`), `rotary_base`, and
    the other fields of `BackboneSpec`. For BERT: `token_types`, the number of token types (0:
    none); `embedding_norm`, whether a norm follows the embeddings; `head_transform`, whether a
    language model has a `HeadTransform`. Raises ValueError for an unknown value of `positions`.
    """

    causal: ClassVar = True

    def __init__(self, *, positions: str, rotary_base: float, **hyperparameters: Any):
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r}: choose 'rotary', 'learned' or 'none'")
        super().__init__(
            learned_positions=positions == "learned",
            rotary_base=rotary_base if positions == "rotary" else None,
            **hyperparameters,
        )

    def make_body(
        self,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        token_types: int = 0,
        embedding_norm: bool = False,
        head_transform: bool = False,
        **blocks: Any,
    ) -> None:
        spec = BackboneSpec(causal=self.causal, **blocks)
        # Of all mixers, only attention has a state of fixed length: its cache.
        self.has_bounded_context |= not set("AG").isdisjoint(spec.pattern[: spec.depth])
        if token_types:
            self.token_types = TokenTypes(token_types, spec.width, numerics, rngs)
        if embedding_norm:
            self.embedding_norm = spec.make_norm(numerics, rngs)
        self.backbone = Backbone(spec, numerics, rngs)
        if head_transform and not self.is_classifier:
            self.head_transform = HeadTransform(spec, self.vocabulary_size, numerics, rngs)


class Encoder(Decoder):
    """A bidirectional masked language model (Devlin et al. 2019, arXiv:1810.04805), or a
    classifier if `num_classes` is given. Hyperparameters as in `Decoder`. The blocks are
    bidirectional, so there is no decoding state."""

    causal: ClassVar = False
