"""Completes several prompts at once with the engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import Tokenizer
from inference.compiled import next_power_of_two
from inference.engine.engine import Engine, options_of
from inference.engine.programs import Programs
from inference.requests import Completion, Request

MOST_ROWS = 32
"""Requests that are written at the same time; further ones wait."""

OnText = Callable[[int, str, Completion | None], None]


class Generator:
    """Completes texts with decoder models whose arrays are sharded over `mesh` by `rules`.

    context: the number of tokens that the model can attend to, which is its training length. A
    model with unbounded context (only recurrence) reads and writes texts of any length.

    The programs have only the options and the room that the requests need, so that they compile
    fast.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, context: int, mesh: Mesh, rules: Mapping[str, Sequence[str]]
    ):
        self._tokenizer, self._context = tokenizer, context
        self._mesh, self._rules = mesh, rules
        self._programs: Programs | None = None

    def complete(
        self, module: Any, requests: Sequence[Request], on_text: OnText | None = None
    ) -> list[Completion]:
        """Return the completions of `requests`, in their order.

        `on_text(index, piece, completion)` is called with each piece of a growing text;
        `completion` is None until the text has ended. An answer depends only on its prompt,
        settings and seed, not on other requests. Equal requests get different answers, but the
        first of them always gets the same answer.

        Raises `configs.UsageError` for a prompt that is longer than the context, and for a
        constraint that can't be followed.
        """
        graph, params = nnx.split(module)
        options = options_of(requests)
        if (
            self._programs is None
            or self._programs.graph != graph
            or self._programs.options != options
        ):
            self._programs = Programs.of(
                graph, self._tokenizer, mesh=self._mesh, rules=self._rules, options=options
            )
        lengths = [len(self._tokenizer.encode(request.prompt)) for request in requests]
        longest = max(
            (
                length + request.max_tokens
                for length, request in zip(lengths, requests, strict=True)
            ),
            default=0,
        )
        opening = len(self._tokenizer.document_opening)
        context = self._context if module.has_bounded_context else None
        room = next_power_of_two(longest + opening)
        engine = Engine(
            self._programs,
            params,
            self._tokenizer,
            context=context,
            rooms=None if context is None else (min(context, room),),
            sizes=(next_power_of_two(min(len(requests), MOST_ROWS)),),
        )
        jobs = []
        for index, request in enumerate(_numbered(requests)):

            def hear(piece: str, completion: Completion | None, index: int = index) -> None:
                if on_text is not None:
                    on_text(index, piece, completion)

            name = f"prompt {index + 1}" if len(requests) > 1 else "the prompt"
            jobs.append(engine.submit(request, hear if on_text else None, name=name))
        engine.run()
        for job in jobs:
            if job.error is not None:
                raise job.error
        return [job.completion for job in jobs if job.completion is not None]


def _numbered(requests: Sequence[Request]) -> list[Request]:
    """Set the `repeat` of requests that equal an earlier one in prompt and seed."""
    counts: dict[tuple[str, int], int] = {}
    numbered = []
    for request in requests:
        key = (request.prompt, request.sampling.seed)
        numbered.append(replace(request, repeat=counts.get(key, 0)))
        counts[key] = counts.get(key, 0) + 1
    return numbered
