"""The decoder: tokens to the logits of the next token, for any mixture of mixers.

Initial values, after GPT-2 (Radford et al. 2019); L is the depth:

    | parameter                                        | distribution                         |
    |--------------------------------------------------|--------------------------------------|
    | tables, dense layers at the end, head, classes   | normal, 0.02                         |
    | query, key, value, gate, up of all parts         | normal, 0.02                         |
    | out of a mixer, down of feed-forward             | normal, 0.02 / sqrt(2 L)             |
    | recurrence: input kernel                         | normal cut at 2, 1 / sqrt(width)     |
    | recurrence: recurrent kernel                     | orthogonal rows                      |
    | recurrence: bias                                 | 1 for a forget gate, 0 else          |
    | RG-LRU: gates; decay                             | normal, 1 / sqrt(units); see there   |
    | depthwise kernel of K taps                       | normal, 1 / sqrt(K)                  |
    | scale of norms; other biases                     | 1; 0                                 |

Axes: B batch, T length, D width, V vocabulary.
"""

from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from model.backbone import Backbone
from model.layers.head_transform import HeadTransform
from model.layers.norms import norm as make_norm
from model.layers.positions import Scaling
from model.tokens import TokenModel

POSITIONS = ("rotary", "learned", "none")


class Decoder(TokenModel):
    """A causal language model, or with `num_classes` a classifier that reads from left to right.

    `pattern` has a letter for each block, repeated to the `depth`: "A" attention, "C" convolution,
    "R" recurrence. `token_types`, `embedding_norm` and `head_transform`: what BERT has beside, as
    in `TokenModel`. `blocks`: the other arguments of `model.backbone.Backbone`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        pattern: str,
        positions: str,
        rotary_base: float,
        tied_embeddings: bool,
        logit_soft_cap: float | None,
        dropout: float,
        pooling: str,
        vocabulary_size: int,
        max_length: int,
        num_classes: int | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        rotary_scaling: Scaling | None = None,
        token_types: int = 0,
        embedding_norm: bool = False,
        head_transform: bool = False,
        causal: bool = True,
        **blocks: Any,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r}: choose 'rotary', 'learned' or 'none'")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}

        def norm() -> nnx.Module:
            epsilon, use_bias = blocks["norm_epsilon"], blocks["use_bias"]
            return make_norm(blocks["norm"], width, epsilon=epsilon, use_bias=use_bias, **numbers)

        def transform() -> HeadTransform:
            use_bias, kind = blocks["use_bias"], blocks["feed_forward"]
            return HeadTransform(kind, width, vocabulary_size, norm, use_bias=use_bias, **numbers)

        super().__init__(
            lambda: Backbone(
                width=width,
                depth=depth,
                pattern=pattern,
                rotary_base=rotary_base if positions == "rotary" else None,
                rotary_scaling=rotary_scaling,
                causal=causal,
                dropout=dropout,
                **blocks,
                **numbers,
            ),
            width=width,
            features=width,
            learned_positions=positions == "learned",
            # Recurrence and convolution go on for ever: they have no cache or table to run out of.
            has_bounded_context=positions == "learned" or "A" in pattern[:depth],
            tied_embeddings=tied_embeddings,
            logit_soft_cap=logit_soft_cap,
            dropout=dropout,
            pooling=pooling,
            vocabulary_size=vocabulary_size,
            max_length=max_length,
            num_classes=num_classes,
            token_types=token_types,
            make_embedding_norm=norm if embedding_norm else None,
            make_head_transform=transform if head_transform else None,
            **numbers,
        )


class Encoder(Decoder):
    """The same model where every position sees all others: it fills in tokens that are left out
    (Devlin et al. 2019, arXiv:1810.04805), or with `num_classes` classifies. It has no state."""

    def __init__(self, **hyperparameters: Any):
        super().__init__(causal=False, **hyperparameters)
