"""A stack of residual blocks. Each has a mixer (attention, convolution or recurrence) and a
feed-forward part.

Every mixer is called as `mixer(x_BTD, state=None, segments_BT=None) -> (y_BTD, state)`:

- Without a state, the rows are whole sequences. Positions with different segment numbers
  (`segments_BT`, int32 [B, T]) do not see each other.
- With a state, the input is the next T positions of each row (one or more). Positions of segment 0
  are padding at the end of a row and do not change the state.

Axes: B batch, T length, D width, S source length, K rows selected from each group.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model.layers.attention import Attention, CrossAttention
from model.layers.dropout import apply_dropout, drop_examples, fold_key, split_key
from model.layers.feed_forward import FeedForward
from model.layers.linear import WEIGHT_STD
from model.layers.norms import norm
from model.layers.numerics import Numerics
from model.layers.positions import Scaling
from model.layers.recurrence import Bidirectional, Recurrence
from model.layers.rg_lru import RGLRU
from model.layers.sharding import AXES
from model.layers.short_convolution import GatedConvolution
from model.layers.states import State, StateAxes, select_rows

KeysValues = tuple[jax.Array, jax.Array]

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "named": jax.checkpoint_policies.save_only_these_names("mixer", "feed_forward"),
}
"""The rematerialisation policies: what each block saves for the backward pass besides its input.

"full" saves nothing; "dots" saves the products with weights; "named" saves the arrays marked with
`checkpoint_name`: the mixer's output, and the feed-forward part's products with the up and gate
kernels.
"""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """The hyperparameters of a stack of residual blocks, the same for every block.

    Each architecture creates a spec from its hyperparameters. Fields that also exist in the
    configuration (`configs/schema/blocks.py`) have the same names there. Raises ValueError for an
    unknown `norm_placement` or `remat`.
    """

    depth: int  # number of blocks
    pattern: str  # the mixer of each block, repeated: "RRA" with depth 4 means R, R, A, R
    width: int  # D, the size of the vector at each position
    causal: bool  # whether a position sees only itself and earlier positions

    # Mixers "A", attention, and "G", attention without a window. Cross-attention uses the same
    # numbers of heads.
    num_heads: int  # query heads
    num_kv_heads: int | None  # key/value heads; None: num_heads
    head_dim: int | None  # None: width // num_heads
    attention_window: int | None  # of "A", as in `model.layers.attend.visible`; None: no window
    attention: str  # the `implementation` argument of `model.layers.attend.attend`
    rotary_base: float | None  # None: no rotary positions
    rotary_scaling: Scaling | None = None  # as in `model.layers.positions.rotary_frequencies`
    qkv_bias: bool = False  # whether queries, keys and values have biases without `use_bias`
    qk_norm: bool = False  # as in `model.layers.attention.Attention`
    cross_attention: bool = False  # whether each block also attends to a source sequence

    # Mixers "C", convolution, and "R", recurrence.
    convolution_size: int  # kernel size
    recurrence: str  # "rg_lru", or a key of `model.layers.recurrence.CELLS`

    # All blocks.
    norm: str  # "layer_norm" or "rms_norm"
    norm_placement: str  # "pre": x + part(norm(x)); "post": norm(x + part(x))
    norm_epsilon: float  # added to the variance
    feed_forward: str  # a key of `model.layers.feed_forward.ACTIVATIONS`
    feed_forward_width: int | None  # F; None: the default for `feed_forward`
    use_bias: bool  # whether linear maps and layer norms have biases
    dropout: float  # dropout rate at the output of each part of a block
    stochastic_depth: float  # drop rate in the last block; grows linearly with the depth

    # Compilation and memory.
    remat: str  # "none" or a policy of `REMAT`
    scan_layers: bool  # whether to compile one period of the pattern and scan over periods

    def __post_init__(self):
        if self.norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement {self.norm_placement!r}: choose 'pre' or 'post'")
        if self.remat != "none" and self.remat not in REMAT:
            raise ValueError(f"remat {self.remat!r}: choose from {['none', *REMAT]}")

    @property
    def pre_norm(self) -> bool:
        """Return whether each part of a block (mixer, cross-attention, feed-forward) has its norm
        before it. If not, the norm follows the part's residual sum."""
        return self.norm_placement == "pre"

    @property
    def projections(self) -> dict[str, Any]:
        """Return the keyword arguments `use_bias` and `residual_std` of the parts of a block.

        `residual_std`, for output kernels, is 0.02 / sqrt(number of residual branches), so that the
        residual stream does not grow with the depth (as in GPT-2).
        """
        parts = (3 if self.cross_attention else 2) * self.depth
        return {"use_bias": self.use_bias, "residual_std": WEIGHT_STD / parts**0.5}

    @property
    def heads(self) -> dict[str, Any]:
        """Return the keyword arguments that attention and cross-attention share."""
        return {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "qkv_bias": self.qkv_bias,
            **self.projections,
        }

    def make_norm(self, numerics: Numerics, rngs: nnx.Rngs) -> nnx.Module:
        """Make a norm for arrays [..., width]."""
        return norm(
            self.norm, self.width, numerics, rngs, epsilon=self.norm_epsilon, use_bias=self.use_bias
        )

    def make_mixer(self, letter: str, numerics: Numerics, rngs: nnx.Rngs) -> nnx.Module:
        """Make the mixer for a `letter` of the pattern. It maps [B, T, width] to [B, T, width].

        A recurrence runs in both directions if the spec is not causal, with width // 2 units in
        each direction. Raises ValueError for an unknown letter.
        """
        width, causal = self.width, self.causal
        if letter in "AG":
            return Attention(
                width,
                numerics,
                rngs,
                causal=causal,
                window=self.attention_window if letter == "A" else None,
                qk_norm_epsilon=self.norm_epsilon if self.qk_norm else None,
                rotary_base=self.rotary_base,
                rotary_scaling=self.rotary_scaling,
                implementation=self.attention,
                **self.heads,
            )
        if letter == "C":
            size = self.convolution_size
            return GatedConvolution(
                width, numerics, rngs, size=size, causal=causal, **self.projections
            )
        if letter != "R":
            raise ValueError(f"no mixer {letter!r}: choose 'A', 'G', 'C' or 'R'")

        def recurrent(units: int) -> nnx.Module:
            if self.recurrence == "rg_lru":
                return RGLRU(width, units, units, numerics, rngs, **self.projections)
            return Recurrence(self.recurrence, width, units, numerics, rngs)

        return recurrent(width) if causal else Bidirectional(lambda: recurrent(width // 2))


class Block(nnx.Module):
    """A mixer and a feed-forward part, each with a residual connection.

    With "pre" norms: x + mixer(norm(x)), then x + feed_forward(norm(x)). With "post" norms:
    norm(x + mixer(x)), then norm(x + feed_forward(x)). If the spec has cross-attention, it is a
    third such part, between these two.

    `mixer`: "A" attention, "G" attention without a window, "C" convolution, or "R" recurrence.
    """

    def __init__(self, spec: BackboneSpec, mixer: str, numerics: Numerics, rngs: nnx.Rngs):
        self.mixer_norm = spec.make_norm(numerics, rngs)
        self.mixer = spec.make_mixer(mixer, numerics, rngs)
        self.cross_norm = self.cross = nnx.data(None)
        if spec.cross_attention:
            self.cross_norm = spec.make_norm(numerics, rngs)
            self.cross = CrossAttention(spec.width, numerics, rngs, **spec.heads)
        self.feed_forward_norm = spec.make_norm(numerics, rngs)
        kind, hidden_width = spec.feed_forward, spec.feed_forward_width
        self.feed_forward = FeedForward(
            kind, spec.width, hidden_width, numerics, rngs, **spec.projections
        )
        self.dropout_rate, self.stochastic_depth = spec.dropout, spec.stochastic_depth
        self.pre_norm = spec.pre_norm

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: State | None = None,
        segments_BT: jax.Array | None = None,
        keys_values: KeysValues | None = None,
        source_mask_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        depth_fraction: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] to [B, T, D]; also return the mixer's new state (None without `state`).

        `keys_values`: the keys and values of the source, from `cross.keys_values`.
        `source_mask_BS` (bool): True at real source positions, False at padding.
        `depth_fraction`: (block index + 1) / depth, a factor of the stochastic depth rate.

        Dropout is applied only if `dropout_key` is given.
        """
        keys = split_key(dropout_key)

        def normed(norm: nnx.Module, x_BTD: jax.Array) -> jax.Array:
            return norm(x_BTD) if self.pre_norm else x_BTD

        def added(
            norm: nnx.Module, x_BTD: jax.Array, y_BTD: jax.Array, key: jax.Array | None
        ) -> jax.Array:
            y_BTD = apply_dropout(y_BTD, self.dropout_rate, key)
            if key is not None and self.stochastic_depth:
                rate = self.stochastic_depth * depth_fraction
                y_BTD = drop_examples(y_BTD, rate, jax.random.fold_in(key, 1))
            x_BTD = x_BTD + y_BTD
            return x_BTD if self.pre_norm else norm(x_BTD)

        y_BTD, state = self.mixer(
            normed(self.mixer_norm, x_BTD), state=state, segments_BT=segments_BT
        )
        x_BTD = added(self.mixer_norm, x_BTD, checkpoint_name(y_BTD, "mixer"), keys[0])
        if self.cross is not None:
            assert self.cross_norm is not None and keys_values is not None
            key = fold_key(dropout_key, 2)
            y_BTD = self.cross(
                normed(self.cross_norm, x_BTD), keys_values, source_mask_BS=source_mask_BS
            )
            x_BTD = added(self.cross_norm, x_BTD, y_BTD, key)
        y_BTD = self.feed_forward(normed(self.feed_forward_norm, x_BTD))
        return added(self.feed_forward_norm, x_BTD, y_BTD, keys[1]), state


class Backbone(nnx.Module):
    """A stack of `spec.depth` blocks, followed by a norm if the blocks have "pre" norms.

    Without `scan_layers`, `layers` contains every block. With it, `layers` contains one period of
    the pattern, and each parameter has a leading axis "layers" of size depth / len(pattern). A
    `jax.lax.scan` runs over the periods: it compiles faster, and parameters sharded by FSDP are
    gathered one period at a time. Mixer states, and keys and values for cross-attention, are
    stacked in the same way. Raises ValueError for `scan_layers` with a depth that is not a multiple
    of the pattern's length.
    """

    def __init__(self, spec: BackboneSpec, numerics: Numerics, rngs: nnx.Rngs):
        depth, pattern = spec.depth, spec.pattern
        self.depth, self.remat, self.features = depth, spec.remat, spec.width

        def blocks(mixers: Sequence[str], rngs: nnx.Rngs) -> nnx.List:
            return nnx.List([Block(spec, mixer, numerics, rngs) for mixer in mixers])

        self.periods = None
        if not spec.scan_layers:
            self.layers = blocks([pattern[i % len(pattern)] for i in range(depth)], rngs)
        elif depth % len(pattern):
            raise ValueError(
                f"scanned layers need a depth that the pattern {pattern!r} divides, not {depth}"
            )
        else:
            self.periods = depth // len(pattern)
            self.layers = _stacked(lambda rngs: blocks(pattern, rngs), self.periods, rngs)
        self.norm = spec.make_norm(numerics, rngs) if spec.pre_norm else nnx.data(None)

    def initial_state(self, batch_size: int, max_length: int) -> list[State]:
        """Return the mixer states before the first position, one for each block of `layers`."""
        states = [block.mixer.initial_state(batch_size, max_length) for block in self.layers]
        if self.periods is None:
            return states
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.periods, *x.shape)), states)

    def keys_values(self, source_BSD: jax.Array) -> list[KeysValues]:
        """Compute the cross-attention keys and values of a source for each block of `layers`.

        Keys and values do not depend on the targets, so call this once per source.
        """
        if self.periods is None:
            return [block.cross.keys_values(source_BSD) for block in self.layers]
        graph, parameters = nnx.split(self.layers)

        def period(_, parameters):
            blocks = nnx.merge(graph, parameters)
            return None, [block.cross.keys_values(source_BSD) for block in blocks]

        return jax.lax.scan(period, None, parameters)[1]

    def select(self, tree: Any, chosen_BK: jax.Array) -> Any:
        """Select rows of a state or of `keys_values` by `model.layers.states.select_rows`."""
        return select_rows(tree, chosen_BK, axis=0 if self.periods is None else 1)

    @property
    def state_axes(self) -> list[StateAxes]:
        """Return the logical axes of the arrays of the states, one entry for each of `layers`."""
        axes = [block.mixer.state_axes for block in self.layers]
        if self.periods is None:
            return axes
        return [{name: ("layers", *of) for name, of in one.items()} for one in axes]

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: list[State] | None = None,
        segments_BT: jax.Array | None = None,
        keys_values: list[KeysValues] | None = None,
        source_mask_BS: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[State] | None]:
        """Map [B, T, D] to [B, T, D]; also return the new mixer states (None without `state`).

        For cross-attention: `keys_values` is the result of the method `keys_values`;
        `source_mask_BS` (bool) is True at real source positions and False at padding. Dropout is
        applied only if `dropout_key` is given.
        """

        def run(blocks, x_BTD, states, keys_values, first):
            after = []
            for i, block in enumerate(blocks):
                key = fold_key(dropout_key, first + i)
                call: Callable = functools.partial(
                    block,
                    state=None if states is None else states[i],
                    segments_BT=segments_BT,
                    keys_values=None if keys_values is None else keys_values[i],
                    source_mask_BS=source_mask_BS,
                    dropout_key=key,
                    depth_fraction=(first + i + 1) / self.depth,
                )
                if self.remat != "none" and states is None:
                    # Inside a scan, XLA can't merge the recomputation with the forward pass anyway.
                    policy, unrolled = REMAT[self.remat], self.periods is None
                    call = jax.checkpoint(call, policy=policy, prevent_cse=unrolled)
                x_BTD, mixer_state = call(x_BTD)
                after.append(mixer_state)
            return x_BTD, None if states is None else after

        if self.periods is None:
            x_BTD, state = run(self.layers, x_BTD, state, keys_values, 0)
        else:
            graph, parameters = nnx.split(self.layers)

            def period(x_BTD, inputs):
                parameters, states, keys_values, first = inputs
                return run(nnx.merge(graph, parameters), x_BTD, states, keys_values, first)

            first = jnp.arange(self.periods) * len(self.layers)
            x_BTD, state = jax.lax.scan(period, x_BTD, (parameters, state, keys_values, first))
        return x_BTD if self.norm is None else self.norm(x_BTD), state


def _stacked(make: Callable[[nnx.Rngs], nnx.List], copies: int, rngs: nnx.Rngs) -> nnx.List:
    """Call `make` with `copies` random keys and stack the results into one module, whose
    parameters have a leading axis "layers"."""
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
