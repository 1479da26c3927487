"""Text generation: batches of prompts of any length, prefilled and then continued token by token.

Axes: B batch (rows), T length, V vocabulary.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from configs.errors import UsageError
from data.codecs.tokenizers import Tokenizer
from inference.compiled import compile_for_graph, next_power_of_two
from inference.requests import Completion, Request
from inference.sampling import RowSettings, row_keys, sample
from inference.text import GrowingText, writable_tokens
from parallel.axes import replicated

MOST_ROWS = 32
"""Requests in one batch; further ones wait."""

MOST_STEPS = 32
"""Tokens that every row writes before the host checks the texts."""

SECONDS_BETWEEN_PIECES = 0.05
"""Approximate time between two checks of the texts by the host, if they are streamed."""

SHORTEST_PREFILL = 16

OnText = Callable[[int, str, Completion | None], None]


class Generator:
    """Completes texts with decoder models whose arrays are sharded over `mesh` by `rules`.

    context: the number of tokens that the model can attend to, which is its training length. When a
    text gets longer, it continues from the last half of its context. A model with unbounded context
    (only recurrence) reads and writes texts of any length.

    Numbers of rows and lengths are rounded up to powers of two, so that few programs are compiled.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, context: int, mesh: Mesh, rules: Mapping[str, Sequence[str]]
    ):
        self._tokenizer, self._context = tokenizer, context
        self._mesh, self._rules = mesh, rules
        self._writable_V = writable_tokens(tokenizer)
        self._programs: _Programs | None = None

    def complete(
        self, module: Any, requests: Sequence[Request], on_text: OnText | None = None
    ) -> list[Completion]:
        """Return the completions of `requests`, in their order.

        `on_text(index, piece, completion)` is called with each piece of a growing text;
        `completion` is None until the text has ended. An answer depends only on its prompt,
        settings and seed, not on other requests. Equal requests get different answers, but the
        first of them always gets the same answer.

        Raises `configs.UsageError` for a prompt that is longer than the context.
        """
        rows = [_Row(request, self._tokenizer) for request in requests]
        bounded = module.has_bounded_context
        for number, row in enumerate(rows, start=1):
            if bounded and row.prompt_tokens > self._context:
                which = f"prompt {number}" if len(rows) > 1 else "the prompt"
                raise UsageError(
                    f"{which} has {row.prompt_tokens} tokens, and the context of this model only "
                    f"{self._context}: shorten the prompt"
                )
        graph, parameters = nnx.split(module)
        if self._programs is None or self._programs.graph != graph:
            self._programs = _Programs.of(
                graph, self._mesh, self._rules, self._tokenizer.end_id, self._writable_V
            )
        keys = row_keys(
            [request.sampling.seed for request in requests],
            [request.prompt for request in requests],
            _repeats(requests),
        )
        for start in range(0, len(rows), MOST_ROWS):
            part = slice(start, start + MOST_ROWS)
            group = _Group(
                self._programs,
                parameters,
                rows[part],
                keys[part],
                context=self._context,
                bounded=bounded,
                vocabulary_size=self._tokenizer.vocabulary_size,
            )
            group.run(on_text, start)
        return [row.completion() for row in rows]


class _Row:
    """One text and its tokens, on the host."""

    def __init__(self, request: Request, tokenizer: Tokenizer):
        self.request = request
        ids = tokenizer.encode(request.prompt)
        after = ids.tolist() if tokenizer.joins_prompt else []
        opening = tokenizer.opening if len(ids) else tokenizer.document_opening
        self.ids = [*opening.tolist(), *ids.tolist()]
        self.prompt_tokens = len(self.ids)
        self.read = 0  # number of ids in the model's state: finally all except the last
        self.text = GrowingText(
            tokenizer, max_tokens=request.max_tokens, stop=request.stop, after=after
        )

    @property
    def written(self) -> int:
        return len(self.ids) - self.prompt_tokens

    def push(self, token: int) -> str:
        self.ids.append(token)
        self.read += 1
        return self.text.push(token)

    def completion(self) -> Completion:
        text = self.text
        assert text.finish is not None
        return Completion(
            self.request.prompt, self.prompt_tokens, text.tokens, text.text, text.finish
        )


class _Group:
    """Rows that share a batch, from their prompts to their ends.

    The model reads a token and predicts the next. So a row's state has all of its tokens except the
    last, which the next step reads.
    """

    def __init__(
        self,
        programs: "_Programs",
        parameters: Any,
        rows: Sequence[_Row],
        keys_B2: np.ndarray,
        *,
        context: int,
        bounded: bool,
        vocabulary_size: int,
    ):
        size = next_power_of_two(len(rows))
        self.programs, self.parameters, self.rows = programs, parameters, rows
        self.longest_prefill = context
        longest = max(row.prompt_tokens + row.request.max_tokens for row in rows)
        self.room = min(context, next_power_of_two(longest)) if bounded else None
        self.state = programs.initial_state(parameters, size, self.room or 1)
        samplings = [row.request.sampling for row in rows]
        # Padding rows copy the settings of the last row, and never take a step.
        filled = [*samplings, *samplings[-1:] * (size - len(rows))]
        self.settings = RowSettings.of(filled, vocabulary_size)
        self.keys_B2 = np.resize(keys_B2, (size, 2))
        self.seen_BV = None
        if self.settings.repetition_penalty_B is not None:
            self.seen_BV = np.zeros((size, vocabulary_size), bool)
            for index, row in enumerate(rows):
                self.seen_BV[index, row.ids] = True

    def run(self, on_text: OnText | None, first: int) -> None:
        """Complete every row. `on_text` gets each piece, with `first` as the index of row 0."""
        self._read({index: row.ids[:-1] for index, row in enumerate(self.rows) if row.ids[1:]})
        steps = MOST_STEPS
        while any(row.text.finish is None for row in self.rows):
            self._make_room()
            budget = self._budget(steps)
            began = time.perf_counter()
            written_BT = self._decode(budget)
            if on_text is not None:
                seconds_per_step = (time.perf_counter() - began) / max(budget)
                steps = min(max(int(SECONDS_BETWEEN_PIECES / seconds_per_step), 1), MOST_STEPS)
            for index, row in enumerate(self.rows):
                piece = ""
                for token in written_BT[index, : budget[index]].tolist():
                    piece += row.push(token)
                    if row.text.finish is not None:
                        break
                if on_text is not None and budget[index]:
                    on_text(first + index, piece, row.completion() if row.text.finish else None)

    def _budget(self, steps: int) -> list[int]:
        """Return how many steps each row may take before the host checks the texts."""
        return [
            min(
                0 if row.text.finish else steps,
                row.request.max_tokens - row.written,
                steps if self.room is None else self.room - row.read,
            )
            for row in self.rows
        ]

    def _make_room(self) -> None:
        """Restart each row whose state is full, with the last half of its content."""
        again = {}
        for index, row in enumerate(self.rows):
            if row.text.finish is None and row.read == self.room:
                kept = row.ids[-(self.room // 2) :]
                again[index], row.read = kept[:-1], 0
        if again:
            self._read(again)

    def _read(self, texts: Mapping[int, Sequence[int]]) -> None:
        """Prefill the rows named in `texts`, from an empty state; leave the other rows
        unchanged."""
        if not texts:
            return
        size = len(self.keys_B2)
        restart_B = np.zeros(size, bool)
        restart_B[list(texts)] = True
        for index, ids in texts.items():
            self.rows[index].read = len(ids)
        longest = max(map(len, texts.values()))
        for start in range(0, max(longest, 1), self.longest_prefill):
            length = min(longest - start, self.longest_prefill)
            length = min(max(next_power_of_two(length), SHORTEST_PREFILL), self.longest_prefill)
            tokens_BT = np.zeros((size, length), np.int32)
            segments_BT = np.zeros((size, length), np.int32)
            for index, ids in texts.items():
                piece = ids[start : start + length]
                tokens_BT[index, : len(piece)] = piece
                segments_BT[index, : len(piece)] = 1
            self.state = self.programs.prefill(
                self.parameters, self.state, tokens_BT, segments_BT, restart_B
            )
            restart_B = np.zeros(size, bool)

    def _decode(self, budget: Sequence[int]) -> np.ndarray:
        """Take `budget` steps of each row; return the tokens drawn, int32 [B, MOST_STEPS]."""

        def column(values: Sequence[int]) -> np.ndarray:
            return np.array([*values, *[0] * (len(self.keys_B2) - len(self.rows))], np.int32)

        written_BT, self.state, self.seen_BV = self.programs.decode(
            self.parameters,
            self.state,
            self.seen_BV,
            self.keys_B2,
            self.settings,
            column([row.ids[-1] for row in self.rows]),
            column([row.written for row in self.rows]),
            column(budget),
        )
        return np.asarray(written_BT)


@dataclass(frozen=True)
class _Programs:
    """The functions that run on the device, compiled for one model on one mesh."""

    graph: nnx.GraphDef
    initial_state: Callable[..., Any]
    prefill: Callable[..., Any]
    decode: Callable[..., Any]

    @classmethod
    def of(
        cls,
        graph: nnx.GraphDef,
        mesh: Mesh,
        rules: Mapping[str, Sequence[str]],
        end_id: int,
        writable_V: np.ndarray,
    ) -> "_Programs":
        everywhere = replicated(mesh)
        compiled = partial(compile_for_graph, graph=graph, mesh=mesh, rules=rules)

        def initial_state(module, rows, length):
            return module.initial_state(rows, length)

        def decode(*arguments):
            written_BT, state, seen_BV = _decode(*arguments, end_id=end_id, writable_V=writable_V)
            # Every host of a mesh reads all that was written.
            return jax.lax.with_sharding_constraint(written_BT, everywhere), state, seen_BV

        return cls(
            graph,
            compiled(initial_state, static_argnums=(1, 2)),
            compiled(_prefill, donate_argnums=1),
            compiled(decode, donate_argnums=(1, 2)),
        )


def _prefill(module, state, tokens_BT, segments_BT, restart_B):
    """Return the state after reading the tokens of segment 1. Rows with `restart_B` are emptied
    first."""
    state = module.reset(state, restart_B)
    _, state = module.hidden(tokens_BT, state=state, segments_BT=segments_BT)
    return state


def _decode(
    module,
    state,
    seen_BV,
    keys_B2,
    settings,
    pending_B,
    count_B,
    budget_B,
    *,
    end_id,
    writable_V,
):
    """Read each row's pending token and draw the next, `budget_B` times or until the row draws
    `end_id`.

    Only tokens that are `writable_V` are drawn. Returns the tokens drawn, int32 [B, MOST_STEPS]
    (arbitrary after a row's end), the state, and which tokens each row has seen.
    """
    rows_B = jnp.arange(len(pending_B))

    def goes_on(carry):
        step, _, _, _, ended_B, _ = carry
        return jnp.any((step < budget_B) & ~ended_B)

    def advance(carry):
        step, state, pending_B, seen_BV, ended_B, written_BT = carry
        active_B = (step < budget_B) & ~ended_B
        logits_BTV, state = module(
            pending_B[:, None], state=state, segments_BT=active_B[:, None].astype(jnp.int32)
        )
        logits_BV = jnp.where(writable_V, logits_BTV[:, 0], -jnp.inf)
        drawn_B = sample(logits_BV, keys_B2, count_B + step, settings, seen_BV)
        pending_B = jnp.where(active_B, drawn_B, pending_B)
        if seen_BV is not None:
            seen_BV = seen_BV.at[rows_B, pending_B].set(True)
        written_BT = jax.lax.dynamic_update_slice(written_BT, pending_B[:, None], (0, step))
        ended_B = ended_B | (active_B & (drawn_B == end_id))
        return step + 1, state, pending_B, seen_BV, ended_B, written_BT

    nothing_BT = jnp.zeros((len(pending_B), MOST_STEPS), jnp.int32)
    ended_B = jnp.zeros(len(pending_B), bool)
    carry = (jnp.int32(0), state, pending_B, seen_BV, ended_B, nothing_BT)
    _, state, _, seen_BV, _, written_BT = jax.lax.while_loop(goes_on, advance, carry)
    return written_BT, state, seen_BV


def _repeats(requests: Sequence[Request]) -> list[int]:
    """Return, for each request, the number of earlier ones with the same prompt and seed."""
    counts: dict[tuple[str, int], int] = {}
    repeats = []
    for request in requests:
        key = (request.prompt, request.sampling.seed)
        repeats.append(counts.get(key, 0))
        counts[key] = repeats[-1] + 1
    return repeats
