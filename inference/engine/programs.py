"""The engine's functions on the device, compiled for one model on one mesh."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import Tokenizer
from inference.compiled import compile_for_graph
from inference.engine import slots as on_device
from inference.engine.slots import SlotArrays, Slots
from inference.requests import Sampling
from inference.sampling import OFF, RowSettings
from inference.text import writable_tokens
from model.layers.sharding import Axes
from model.layers.states import ModelState
from parallel.axes import named_sharding, replicated

LOGPROBS, MASKS = "logprobs", "masks"

ALL_OPTIONS = frozenset((*OFF, LOGPROBS, MASKS))
"""Everything that a request may ask of a program."""


@dataclass(frozen=True)
class Programs:
    """Compiled functions of `inference.engine.slots`. The first argument of each is the model's
    arrays; `Slots` are donated, model states of one row are not.

    options: what the programs can do, a subset of `ALL_OPTIONS`; each option costs compilation time
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
        """Make the programs; each is compiled when it is first called with new shapes."""
        everywhere = replicated(mesh)
        compiled = partial(compile_for_graph, graph=graph, mesh=mesh, rules=rules)
        writable_V = writable_tokens(tokenizer)
        constrained = jax.lax.with_sharding_constraint

        # Arrays leave every program sharded in the same way, so that none is compiled twice.
        def sharded_state(module: Any, state: ModelState) -> ModelState:
            def place(axes: Axes, x: jax.Array) -> jax.Array:
                return constrained(x, named_sharding(axes, x.shape, mesh=mesh, rules=rules))

            return module.map_state(place, state)

        def sharded(module: Any, slots: Slots) -> Slots:
            rows = jax.tree.map(lambda x: constrained(x, everywhere), slots.rows)
            return Slots(sharded_state(module, slots.model), rows)

        def initial_slots(module: Any, rows: SlotArrays, length: int) -> Slots:
            rows = jax.tree.map(jnp.asarray, rows)
            return sharded(module, Slots(module.initial_state(len(rows.pending_B), length), rows))

        def initial_row(module: Any, length: int) -> ModelState:
            return sharded_state(module, module.initial_state(1, length))

        def prefill(module: Any, *arguments: Any) -> Any:
            state, scores = on_device.prefill(module, *arguments)
            return sharded_state(module, state), scores

        def decode(module: Any, *arguments: Any) -> Any:
            slots, drawn = on_device.decode(
                module, *arguments, end_id=tokenizer.end_id, writable_V=writable_V
            )
            # Every host of a mesh reads all that was written.
            return sharded(module, slots), constrained(drawn, everywhere)

        def admit(module: Any, *arguments: Any) -> Slots:
            return sharded(module, on_device.admit(module, *arguments))

        def resize(module: Any, *arguments: Any) -> Slots:
            return sharded(module, on_device.resize(module, *arguments))

        def take_row(module: Any, *arguments: Any) -> ModelState:
            return sharded_state(module, on_device.take_row(module, *arguments))

        return cls(
            graph=graph,
            options=options,
            vocabulary_size=tokenizer.vocabulary_size,
            initial_slots=compiled(initial_slots, static_argnums=2),
            initial_row=compiled(initial_row, static_argnums=1),
            prefill=compiled(prefill),
            admit=compiled(admit, donate_argnums=1),
            decode=compiled(decode, donate_argnums=1),
            resize=compiled(resize, static_argnums=3),
            take_row=compiled(take_row, static_argnums=3),
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
    ) -> SlotArrays:
        """Return the arrays of one slot, on the host. prompt, written: the tokens of its text, the
        last one of which is not in the model state."""
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
        )

    def idle_rows(self, count: int) -> SlotArrays:
        """Return the arrays of `count` slots that do nothing."""
        sampling, key_2 = Sampling(temperature=0), np.zeros(2, np.uint32)
        row = self.row_arrays(sampling, key_2=key_2, left=0, logprobs=False)
        return jax.tree.map(lambda x: np.repeat(x, count, axis=0), row)
