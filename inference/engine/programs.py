"""Compiles the engine's functions on the device for one model on one mesh."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import Tokenizer
from inference.compiled import compile_for_graph
from inference.engine import slots as on_device
from inference.engine import speculation
from inference.engine.lookup import Lookup, idle_lookup
from inference.engine.slots import SlotArrays, Slots
from inference.requests import Sampling
from inference.sampling import OFF, RowSettings
from inference.text import writable_tokens
from model.layers.sharding import Axes
from parallel.axes import named_sharding, replicated

LOGPROBS, MASKS, SPECULATION = "logprobs", "masks", "speculation"

ALL_OPTIONS = frozenset((*OFF, LOGPROBS, MASKS, SPECULATION))
"""All options of a program: the settings in `OFF`, log-probabilities, masks of constraints, and
speculation."""


@dataclass(frozen=True)
class Programs:
    """Jitted functions of `inference.engine.slots` and `inference.engine.speculation`.

    The first argument of each function is the model's arrays, in place of the module. `admit`,
    `decode` and `speculate` donate their `Slots`, which can't be used afterwards.

    graph: the model's graph, from `nnx.split`.
    options: the options of `ALL_OPTIONS` that requests may use. Each one costs compilation time,
        even if no request uses it.
    """

    graph: nnx.GraphDef
    options: frozenset[str]
    vocabulary_size: int
    initial_slots: Callable[..., Any]
    initial_row: Callable[..., Any]
    prefill: Callable[..., Any]
    admit: Callable[..., Any]
    decode: Callable[..., Any]
    speculate: Callable[..., Any]
    resize: Callable[..., Any]
    take_row: Callable[..., Any]

    @classmethod
    def of(
        cls,
        graph: nnx.GraphDef,
        tokenizer: Tokenizer,
        *,
        mesh: Mesh,
        rules: Mapping[str, Sequence[str]],
        options: frozenset[str],
    ) -> "Programs":
        """Build the programs. Each one is compiled when it is first called with new shapes.

        mesh, rules: how activations and model states are sharded.
        """
        everywhere = replicated(mesh)
        writable_V = writable_tokens(tokenizer)

        def place(module: Any, result: Any) -> Any:
            """Shard the results of all programs alike, so that no program is compiled twice."""
            if isinstance(result, tuple):
                return tuple(place(module, one) for one in result)
            if isinstance(result, Slots):
                rows = jax.tree.map(partial(place, module), result.rows)
                return Slots(place(module, result.model), rows)
            if isinstance(result, jax.Array):  # All hosts read the drawn tokens.
                return jax.lax.with_sharding_constraint(result, everywhere)
            return None if result is None else module.map_state(place_state, result)

        def place_state(axes: Axes, x: jax.Array) -> jax.Array:
            sharding = named_sharding(axes, x.shape, mesh=mesh, rules=rules)
            return jax.lax.with_sharding_constraint(x, sharding)

        compiled = partial(compile_for_graph, graph=graph, mesh=mesh, rules=rules, finish=place)
        drawing: dict[str, Any] = {"end_id": tokenizer.end_id, "writable_V": writable_V}
        decode = partial(on_device.decode, **drawing)
        speculate = partial(speculation.speculate, **drawing)
        return cls(
            graph=graph,
            options=options,
            vocabulary_size=tokenizer.vocabulary_size,
            initial_slots=compiled(on_device.initial_slots, static_argnums=2),
            initial_row=compiled(on_device.initial_row, static_argnums=1),
            prefill=compiled(on_device.prefill),
            admit=compiled(on_device.admit, donate_argnums=1),
            decode=compiled(decode, donate_argnums=1),
            speculate=compiled(speculate, donate_argnums=1),
            resize=compiled(on_device.resize, static_argnums=3),
            take_row=compiled(on_device.take_row, static_argnums=3),
        )

    def row_arrays(
        self,
        sampling: Sampling,
        *,
        key_2: np.ndarray,
        prompt: Sequence[int] = (0,),
        written: Sequence[int] = (),
        left: int,
        logprobs: bool,
        lookup: Lookup | None = None,
    ) -> SlotArrays:
        """Return the arrays of one slot, on the host.

        key_2: the random key of its text, from `inference.sampling.row_key`.
        prompt, written: the tokens of its text so far. The last one is not yet in the model state.
        left: the number of tokens that may still be generated.
        lookup: needed with the option `SPECULATION`.
        """
        V, text = self.vocabulary_size, [*prompt, *written]
        counts_V = np.bincount(np.array(written, np.int64), minlength=V).astype(np.int32)
        counts_frequency = {"frequency_penalty", "presence_penalty"} & self.options
        return SlotArrays(
            pending_B=np.array(text[-1:], np.int32),
            written_B=np.array([len(written)], np.int32),
            left_B=np.array([left], np.int32),
            keys_B2=key_2[None].astype(np.uint32),
            settings=RowSettings.of([sampling], V, self.options.intersection(OFF)),
            seen_BV=(
                np.isin(np.arange(V), text)[None] if "repetition_penalty" in self.options else None
            ),
            counts_BV=counts_V[None] if counts_frequency else None,
            logprobs_B=np.array([logprobs]) if LOGPROBS in self.options else None,
            lookup=lookup if SPECULATION in self.options else None,
        )

    def idle_rows(self, count: int, text_room: int) -> SlotArrays:
        """Return the arrays of `count` slots that generate nothing, on the host.

        text_room: the capacity L of `inference.engine.lookup`, in tokens.
        """
        sampling, key_2 = Sampling(temperature=0), np.zeros(2, np.uint32)
        lookup = idle_lookup(text_room)
        row = self.row_arrays(sampling, key_2=key_2, left=0, logprobs=False, lookup=lookup)
        return jax.tree.map(lambda x: np.repeat(x, count, axis=0), row)
