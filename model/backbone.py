"""A stack of residual blocks, each a mixer and a feed-forward part.

Axes: B batch, T length, D width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from model.layers.attention import Attention
from model.layers.dropout import drop_examples, dropout
from model.layers.feed_forward import FeedForward
from model.layers.norms import norm
from model.layers.recurrence import LSTM
from model.layers.sharding import AXES

MixerState = dict[str, jax.Array]

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "named": jax.checkpoint_policies.save_only_these_names("mixer", "feed_forward"),
}
"""What each block keeps for the backward pass beside its input; it makes the rest again. "dots":
products with weights. "named": the mixer's result and the hidden products of the feed-forward
part, as `checkpoint_name` names them."""


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)); `mixer` is "A", attention, or "R",
    recurrence of the kind `recurrence`.

    Every mixer is called alike, `mixer(x_BTD, state=None, segments_BT=None) -> (y_BTD, state)`:
    the whole sequence, a chunk of it and a single position are one function.
    """

    def __init__(
        self,
        mixer: str,
        *,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        causal: bool,
        attention_window: int | None,
        attention: str,
        rotary_base: float | None,
        recurrence: str,
        norm_kind: str,
        norm_epsilon: float,
        feed_forward: str,
        feed_forward_width: int,
        use_bias: bool,
        dropout: float,
        stochastic_depth: float,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        norms = {"epsilon": norm_epsilon, "use_bias": use_bias, **numbers}
        projections = {"use_bias": use_bias, "residual_std": residual_std, **numbers}
        self.mixer_norm = norm(norm_kind, width, **norms)
        if mixer == "A":
            self.mixer = Attention(
                width,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                causal=causal,
                window=attention_window,
                rotary_base=rotary_base,
                implementation=attention,
                **projections,
            )
        elif (mixer, recurrence) == ("R", "lstm"):
            self.mixer = LSTM(width, width, **numbers)
        else:
            raise ValueError(f"no mixer {mixer!r} of recurrence {recurrence!r}")
        self.feed_forward_norm = norm(norm_kind, width, **norms)
        self.feed_forward = FeedForward(feed_forward, width, feed_forward_width, **projections)
        self.dropout_rate, self.stochastic_depth = dropout, stochastic_depth

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: MixerState | None = None,
        segments_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        height: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, MixerState | None]:
        """[B, T, D] -> [B, T, D], and the mixer's state after it; dropout where a key is given.

        `height` is the block's place in the stack, up to 1 at the top: so much of the rate of
        stochastic depth is its own.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)

        def added(y_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
            y_BTD = dropout(y_BTD, self.dropout_rate, key)
            if key is None or not self.stochastic_depth:
                return y_BTD
            return drop_examples(y_BTD, self.stochastic_depth * height, jax.random.fold_in(key, 1))

        y_BTD, state = self.mixer(self.mixer_norm(x_BTD), state=state, segments_BT=segments_BT)
        x_BTD = x_BTD + added(checkpoint_name(y_BTD, "mixer"), keys[0])
        y_BTD = self.feed_forward(self.feed_forward_norm(x_BTD))
        return x_BTD + added(y_BTD, keys[1]), state


class Backbone(nnx.Module):
    """`depth` blocks whose mixers follow `pattern`, repeated: depth 4 of "RRA" is R, R, A, R.

    Unrolled, `layers` holds every block. With `scan_layers`, `layers` holds one period of the
    pattern, each of its parameters with a leading axis "layers" of depth / len(pattern) copies,
    and the program holds that period once, in a loop: quick to compile, and parameters split by
    fsdp are gathered a period at a time. States are stacked as the parameters are.

    `remat`: "none", or what of `REMAT` each block keeps for the backward pass.

    `block` holds the other arguments of `Block`.
    """

    def __init__(
        self,
        *,
        depth: int,
        pattern: str,
        scan_layers: bool,
        remat: str,
        rngs: nnx.Rngs,
        **block: object,
    ):
        if remat != "none" and remat not in REMAT:
            raise ValueError(f"remat {remat!r}: choose from {['none', *REMAT]}")
        self.depth, self.remat = depth, remat

        def blocks(mixers: Sequence[str], rngs: nnx.Rngs) -> nnx.List:
            return nnx.List([Block(mixer, rngs=rngs, **block) for mixer in mixers])

        self.periods = None
        if not scan_layers:
            self.layers = blocks([pattern[i % len(pattern)] for i in range(depth)], rngs)
            return
        if depth % len(pattern):
            raise ValueError(
                f"scanned layers need a depth that the pattern {pattern!r} divides, not {depth}"
            )
        self.periods = depth // len(pattern)
        self.layers = _stacked(lambda rngs: blocks(pattern, rngs), self.periods, rngs)

    def initial_state(self, batch_size: int, max_length: int) -> list[MixerState]:
        """The states before the first position: one for each block of `layers`."""
        states = [block.mixer.initial_state(batch_size, max_length) for block in self.layers]
        if self.periods is None:
            return states
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.periods, *x.shape)), states)

    def reset(self, state: list[MixerState], rows_B: jax.Array) -> list[MixerState]:
        """`state` with the rows that `rows_B` (bool [B]) names as before their first position."""
        batch_axis = 0 if self.periods is None else 1

        def zeroed(x: jax.Array) -> jax.Array:
            shape = [1] * x.ndim
            shape[batch_axis] = -1
            return jnp.where(rows_B.reshape(shape), 0, x)

        return jax.tree.map(zeroed, state)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[MixerState] | None = None,
        segments_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[MixerState] | None]:
        """[B, T, D] -> [B, T, D], and the states after it."""

        def run(blocks, x_BTD, states, first):
            after = []
            for i, block in enumerate(blocks):
                key = None if dropout_key is None else jax.random.fold_in(dropout_key, first + i)
                call = functools.partial(
                    block,
                    state=None if states is None else states[i],
                    segments_BT=segments_BT,
                    dropout_key=key,
                    height=(first + i + 1) / self.depth,
                )
                if self.remat != "none" and states is None:
                    # Inside a loop nothing can be merged with the forward pass anyway.
                    policy, unrolled = REMAT[self.remat], self.periods is None
                    call = jax.checkpoint(call, policy=policy, prevent_cse=unrolled)
                x_BTD, mixer_state = call(x_BTD)
                after.append(mixer_state)
            return x_BTD, None if states is None else after

        if self.periods is None:
            return run(self.layers, x_BTD, state, 0)
        graph, parameters = nnx.split(self.layers)

        def period(x_BTD, inputs):
            parameters, states, first = inputs
            return run(nnx.merge(graph, parameters), x_BTD, states, first)

        first = jnp.arange(self.periods) * len(self.layers)
        return jax.lax.scan(period, x_BTD, (parameters, state, first))


def _stacked(make, copies: int, rngs: nnx.Rngs) -> nnx.Module:
    """What `make(rngs)` makes, `copies` times independently, its parameters stacked in front."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    @jax.vmap
    def values(key: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(nnx.state(make(nnx.Rngs(key))))

    stacked = jax.tree.unflatten(
        jax.tree.structure(abstract), values(jax.random.split(rngs.params(), copies))
    )
    for _, parameter in nnx.to_flat_state(stacked):
        parameter.set_metadata(AXES, ("layers", *parameter.get_metadata(AXES)))
    return nnx.merge(graph, stacked)
