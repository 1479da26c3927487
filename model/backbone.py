"""A stack of residual blocks, each a mixer and a feed-forward part.

Axes: B batch, T length, D width, S length of another sequence, K rows of a group.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from model.layers.attention import Attention, CrossAttention
from model.layers.dropout import drop_examples, dropout
from model.layers.feed_forward import FeedForward
from model.layers.feed_forward import feed_forward_width as usual_feed_forward_width
from model.layers.linear import WEIGHT_STD
from model.layers.norms import norm as make_norm
from model.layers.positions import Scaling
from model.layers.recurrence import Bidirectional, Recurrence
from model.layers.rg_lru import RGLRU
from model.layers.rows import select_rows
from model.layers.sharding import AXES
from model.layers.short_convolution import GatedConvolution

MixerState = dict[str, jax.Array]
KeysValues = tuple[jax.Array, jax.Array]

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "named": jax.checkpoint_policies.save_only_these_names("mixer", "feed_forward"),
}
"""What each block keeps for the backward pass beside its input; it makes the rest again. "dots":
products with weights. "named": the mixer's result and the hidden products of the feed-forward
part, as `checkpoint_name` names them."""


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)): the norms before (`norm_placement`
    "pre"); or norm(x + mixer(x)), then norm(x + feed_forward(x)) ("post").

    `mixer`: "A" attention, "C" convolution, or "R" recurrence of the kind `recurrence`. With
    `cross_attention` a look at another sequence stands between the two, added and normalised
    alike.

    Every mixer is called alike, `mixer(x_BTD, state=None, segments_BT=None) -> (y_BTD, state)`:
    the whole sequence, a chunk of it and a single position are one function.
    """

    def __init__(
        self,
        mixer: str,
        *,
        width: int,
        norm: str,
        norm_epsilon: float,
        norm_placement: str,
        feed_forward: str,
        feed_forward_width: int,
        dropout: float,
        stochastic_depth: float,
        use_bias: bool,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        cross_attention: bool = False,
        **mixing: Any,
    ):
        if norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement {norm_placement!r}: choose 'pre' or 'post'")
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        norms = {"epsilon": norm_epsilon, "use_bias": use_bias, **numbers}
        projections = {"use_bias": use_bias, "residual_std": residual_std, **numbers}
        self.mixer_norm = make_norm(norm, width, **norms)
        self.mixer = make_mixer(mixer, width, **mixing, **projections)
        self.cross_norm = self.cross = nnx.data(None)
        if cross_attention:
            heads = {name: mixing[name] for name in ("num_heads", "num_kv_heads", "head_dim")}
            self.cross_norm = make_norm(norm, width, **norms)
            self.cross = CrossAttention(width, **heads, **projections)
        self.feed_forward_norm = make_norm(norm, width, **norms)
        self.feed_forward = FeedForward(feed_forward, width, feed_forward_width, **projections)
        self.dropout_rate, self.stochastic_depth = dropout, stochastic_depth
        self.pre_norm = norm_placement == "pre"

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: MixerState | None = None,
        segments_BT: jax.Array | None = None,
        source: KeysValues | None = None,
        sources_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        height: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, MixerState | None]:
        """[B, T, D] -> [B, T, D], and the mixer's state after it; dropout where a key is given.

        `source`: what `cross.keys_values` makes of the other sequence, `sources_BS` which of its
        positions are there. `height` is the block's place in the stack, up to 1 at the top: so
        much of the rate of stochastic depth is its own.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)

        def add(x_BTD, norm, layer, key):
            y_BTD, *more = layer(norm(x_BTD) if self.pre_norm else x_BTD)
            y_BTD = dropout(y_BTD, self.dropout_rate, key)
            if key is not None and self.stochastic_depth:
                rate = self.stochastic_depth * height
                y_BTD = drop_examples(y_BTD, rate, jax.random.fold_in(key, 1))
            x_BTD = x_BTD + y_BTD
            return (x_BTD if self.pre_norm else norm(x_BTD)), *more

        def mix(x_BTD):
            y_BTD, after = self.mixer(x_BTD, state=state, segments_BT=segments_BT)
            return checkpoint_name(y_BTD, "mixer"), after

        x_BTD, state = add(x_BTD, self.mixer_norm, mix, keys[0])
        if self.cross is not None:
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, 2)
            look = lambda x_BTD: (self.cross(x_BTD, source, sources_BS=sources_BS),)  # noqa: E731
            (x_BTD,) = add(x_BTD, self.cross_norm, look, key)
        forward = lambda x_BTD: (self.feed_forward(x_BTD),)  # noqa: E731
        (x_BTD,) = add(x_BTD, self.feed_forward_norm, forward, keys[1])
        return x_BTD, state


def make_mixer(
    letter: str,
    width: int,
    *,
    causal: bool,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    attention_window: int | None,
    attention: str,
    rotary_base: float | None,
    recurrence: str,
    convolution_size: int,
    rotary_scaling: Scaling | None = None,
    **projections: Any,
) -> nnx.Module:
    """The mixer [B, T, width] -> [B, T, width] that `letter` stands for in a pattern.

    Recurrence that is not causal runs both ways, each with half the units.
    """
    if letter == "A":
        return Attention(
            width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            causal=causal,
            window=attention_window,
            rotary_base=rotary_base,
            rotary_scaling=rotary_scaling,
            implementation=attention,
            **projections,
        )
    if letter == "C":
        return GatedConvolution(width, size=convolution_size, causal=causal, **projections)
    if letter != "R":
        raise ValueError(f"no mixer {letter!r}: choose 'A', 'C' or 'R'")
    if recurrence == "rg_lru":
        if causal:
            return RGLRU(width, width, width, **projections)
        return Bidirectional(lambda: RGLRU(width, width // 2, width // 2, **projections))
    numbers = {name: projections[name] for name in ("dtype", "param_dtype", "rngs")}
    if causal:
        return Recurrence(recurrence, width, width, **numbers)
    return Bidirectional(lambda: Recurrence(recurrence, width, width // 2, **numbers))


class Backbone(nnx.Module):
    """`depth` blocks whose mixers follow `pattern`, repeated: depth 4 of "RRA" is R, R, A, R; after
    blocks that normalise first, a last norm.

    None for `num_kv_heads` means `num_heads`; for `head_dim`, width // num_heads; for
    `feed_forward_width`, the usual one of its kind; for `attention_window`, the whole sequence.
    `attention`: the implementation, as in `model.layers.attend`.

    Unrolled, `layers` holds every block. With `scan_layers`, `layers` holds one period of the
    pattern, each of its parameters with a leading axis "layers" of depth / len(pattern) copies,
    and the program holds that period once, in a loop: quick to compile, and parameters split by
    fsdp are gathered a period at a time. States, and what blocks with cross-attention look at, are
    stacked as the parameters are.

    `remat`: "none", or what of `REMAT` each block keeps for the backward pass.

    `block` holds the other arguments of `Block`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        pattern: str,
        num_heads: int,
        num_kv_heads: int | None,
        head_dim: int | None,
        feed_forward: str,
        feed_forward_width: int | None,
        scan_layers: bool,
        remat: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        **block: Any,
    ):
        if remat != "none" and remat not in REMAT:
            raise ValueError(f"remat {remat!r}: choose from {['none', *REMAT]}")
        self.depth, self.remat = depth, remat
        numbers = {"dtype": dtype, "param_dtype": param_dtype}
        additions = (3 if block.get("cross_attention") else 2) * depth
        block |= {
            "width": width,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads or num_heads,
            "head_dim": head_dim or width // num_heads,
            "feed_forward": feed_forward,
            "feed_forward_width": feed_forward_width
            or usual_feed_forward_width(feed_forward, width),
            "residual_std": WEIGHT_STD / additions**0.5,
        }

        def blocks(mixers: Sequence[str], rngs: nnx.Rngs) -> nnx.List:
            return nnx.List([Block(mixer, rngs=rngs, **block, **numbers) for mixer in mixers])

        self.periods = None
        if not scan_layers:
            self.layers = blocks([pattern[i % len(pattern)] for i in range(depth)], rngs)
        elif depth % len(pattern):
            raise ValueError(
                f"scanned layers need a depth that the pattern {pattern!r} divides, not {depth}"
            )
        else:
            self.periods = depth // len(pattern)
            self.layers = _stacked(lambda rngs: blocks(pattern, rngs), self.periods, rngs)
        self.norm = nnx.data(None)
        if block["norm_placement"] == "pre":
            kind, epsilon, use_bias = block["norm"], block["norm_epsilon"], block["use_bias"]
            self.norm = make_norm(
                kind, width, epsilon=epsilon, use_bias=use_bias, rngs=rngs, **numbers
            )

    def initial_state(self, batch_size: int, max_length: int) -> list[MixerState]:
        """The states before the first position: one for each block of `layers`."""
        states = [block.mixer.initial_state(batch_size, max_length) for block in self.layers]
        if self.periods is None:
            return states
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.periods, *x.shape)), states)

    def reset(self, state: list[MixerState], rows_B: jax.Array) -> list[MixerState]:
        """`state` with the rows that `rows_B` (bool [B]) names as before their first position."""

        def zeroed(x: jax.Array) -> jax.Array:
            shape = [1] * x.ndim
            shape[self._batch_axis] = -1
            return jnp.where(rows_B.reshape(shape), 0, x)

        return jax.tree.map(zeroed, state)

    def keys_values(self, source_BSD: jax.Array) -> list[KeysValues]:
        """What each block of `layers`, with cross-attention, looks at of another sequence: the same
        for all of its targets, and made once."""
        if self.periods is None:
            return [block.cross.keys_values(source_BSD) for block in self.layers]
        graph, parameters = nnx.split(self.layers)

        def period(_, parameters):
            blocks = nnx.merge(graph, parameters)
            return None, [block.cross.keys_values(source_BSD) for block in blocks]

        return jax.lax.scan(period, None, parameters)[1]

    def select(self, kept: Any, chosen_BK: jax.Array) -> Any:
        """Rows of a state, or of `keys_values`, as in `model.layers.rows.select_rows`."""
        return select_rows(kept, chosen_BK, axis=self._batch_axis)

    @property
    def _batch_axis(self) -> int:
        return 0 if self.periods is None else 1

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[MixerState] | None = None,
        segments_BT: jax.Array | None = None,
        source: list[KeysValues] | None = None,
        sources_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[MixerState] | None]:
        """[B, T, D] -> [B, T, D], and the states after it.

        Blocks with cross-attention need `source`, what `keys_values` makes of the other sequence;
        `sources_BS` (bool [B, S]) says which of its positions are there.
        """

        def run(blocks, x_BTD, states, source, first):
            after = []
            for i, block in enumerate(blocks):
                key = None if dropout_key is None else jax.random.fold_in(dropout_key, first + i)
                call = functools.partial(
                    block,
                    state=None if states is None else states[i],
                    segments_BT=segments_BT,
                    source=None if source is None else source[i],
                    sources_BS=sources_BS,
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
            x_BTD, state = run(self.layers, x_BTD, state, source, 0)
        else:
            graph, parameters = nnx.split(self.layers)

            def period(x_BTD, inputs):
                parameters, states, source, first = inputs
                return run(nnx.merge(graph, parameters), x_BTD, states, source, first)

            first = jnp.arange(self.periods) * len(self.layers)
            x_BTD, state = jax.lax.scan(period, x_BTD, (parameters, state, source, first))
        return x_BTD if self.norm is None else self.norm(x_BTD), state


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
