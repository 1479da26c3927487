"""The predictor that continues prompts."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from inference.engine.constraints import CONSTRAINT_FIELDS, Constraint
from inference.predictors.predictor import (
    ASK_FOR_PROMPT,
    FOR_FILES,
    SAMPLING_FIELDS,
    WRITING_FIELDS,
    Predictor,
    Warn,
    ignore,
)
from inference.requests import Completion, Request, RequestError, Sampling, TokenLogprob

if TYPE_CHECKING:
    from flax import nnx
    from jax.sharding import Mesh

    from data.codecs.tokenizers import Tokenizer
    from inference.engine.engine import Engine
    from inference.engine.programs import Programs
    from parallel.axes import Rules
    from training.model_def import ModelDef

OnText = Callable[[int, str, Completion | None], None]
"""Called with the index of a request, the next piece of its text, and the completion, which is None
until the text has ended."""

MOST_ROWS = 32
"""Number of texts that are generated at the same time; further requests wait."""

_JSON_FIELDS = ("prompt", "prompt_tokens", "tokens", "text", "finish_reason")
_REQUEST_FIELDS = WRITING_FIELDS - SAMPLING_FIELDS - {"n"}


class TextCompletion(Predictor[Request, Completion]):
    """Continues each prompt with generated text, with models on `mesh` whose arrays are sharded by
    `rules`.

    tokenizer: encodes prompts; for a chat model, a prompt is the user's message.
    plain: the tokenizer without messages; None if it is the same.
    context: the number of tokens that the model can attend to, which is its training length. A
        model with unbounded context (only recurrence) reads and generates texts of any length.

    The programs are compiled only for the options and the lengths that the requests need, so that
    compilation is fast.
    """

    fields = WRITING_FIELDS | {"prompt", "stream", *CONSTRAINT_FIELDS}
    required: ClassVar = {"prompt": "a text to go on with"}
    may_span_lines = True

    def __init__(
        self,
        tokenizer: "Tokenizer",
        *,
        context: int,
        mesh: "Mesh",
        rules: "Rules",
        plain: "Tokenizer | None" = None,
    ):
        self.tokenizer, self.plain, self.context = tokenizer, plain or tokenizer, context
        self._mesh, self._rules = mesh, rules
        self._programs: Programs | None = None

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from data.codecs.chat import for_prompts

        assert tokenizer is not None
        return cls(
            for_prompts(tokenizer, model_def.config.data),
            context=model_def.data_spec.require("max_length"),
            mesh=model_def.mesh,
            rules=model_def.rules,
            plain=tokenizer,
        )

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        return f"{FOR_FILES}, and this one continues a text: {ASK_FOR_PROMPT}"

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> list[Request]:
        count = request.get("n", 1)
        if not isinstance(count, int) or count < 1:
            raise RequestError("n", f"must be a whole number >= 1, not {count!r}")
        others = {name: request[name] for name in _REQUEST_FIELDS if name in request}
        drawn = {name: request[name] for name in SAMPLING_FIELDS if name in request}
        if "logit_bias" in drawn:
            drawn["logit_bias"] = _bias_pairs(drawn["logit_bias"])
        form: dict[str, Any] = {
            name: request[name] for name in CONSTRAINT_FIELDS if name in request
        }
        others |= {"sampling": Sampling(**drawn), "constraint": Constraint.of(form)}
        return [Request(prompt, **others) for prompt in request["prompt"] for _ in range(count)]

    def predict(
        self,
        module: "nnx.Module",
        inputs: Iterable[Request],
        *,
        warn: Warn = ignore,
        on_text: "OnText | None" = None,
    ) -> Iterator[Completion]:
        """Return the completions of the requests, in order.

        `on_text` is called with each piece of a growing text. An answer depends only on its prompt,
        settings and seed, not on other requests. Equal requests get different answers, but the
        first of them always gets the same answer.

        Raises `UsageError` for a prompt that is longer than the context, and for a constraint that
        can't be followed.
        """
        requests = list(inputs)
        for request in requests:
            prompt = request.prompt
            if isinstance(prompt, str) and self.plain.decode(self.plain.encode(prompt)) != prompt:
                warn(f"the prompt {prompt!r} has characters that the training text has not")
        engine = self._engine(module, requests)
        jobs = []
        for index, request in enumerate(numbered(requests)):
            name = f"prompt {index + 1}" if len(requests) > 1 else "the prompt"
            listener = None if on_text is None else partial(on_text, index)
            jobs.append(engine.submit(request, listener, name=name))
        engine.run()
        for job in jobs:
            if job.error is not None:
                raise job.error
        return iter([job.completion for job in jobs if job.completion is not None])

    def _engine(self, module: Any, requests: Sequence[Request]) -> "Engine":
        """Return an engine with the options, slots and room for these requests."""
        from flax import nnx

        from inference.compiled import next_power_of_two
        from inference.engine.engine import Engine
        from inference.engine.job import options_of

        graph, params = nnx.split(module)
        lengths = [self._length(request.prompt) + request.max_tokens for request in requests]
        room = next_power_of_two(max(lengths, default=0) + len(self.tokenizer.document_opening))
        is_bounded = module.has_bounded_context
        return Engine(
            self.programs(graph, options_of(requests)),
            params,
            self.tokenizer,
            context=self.context if is_bounded else None,
            rooms=(min(self.context, room),) if is_bounded else None,
            sizes=(next_power_of_two(min(len(requests), MOST_ROWS)),),
        )

    def programs(self, graph: "nnx.GraphDef", options: "frozenset[str]") -> "Programs":
        """Return the engine's programs for models of `graph`, with these options. The latest
        ones are used again if both are equal."""
        from inference.engine.programs import Programs

        made = self._programs
        if made is None or made.graph != graph or made.options != options:
            made = self._programs = Programs.of(
                graph, self.tokenizer, mesh=self._mesh, rules=self._rules, options=options
            )
        return made

    def _length(self, prompt: str | tuple[int, ...]) -> int:
        # `encode_many` of a chat model's tokenizer does not make messages of prompts.
        return len(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)

    def render(self, output: Completion, *, as_json: bool) -> str:
        if not as_json:
            return output.text
        fields = {name: getattr(output, name) for name in _JSON_FIELDS}
        for name in ("prompt_logprobs", "logprobs"):
            if scores := getattr(output, name):
                fields[name] = [self._score(score) for score in scores]
        for name in ("accepted_tokens", "rejected_tokens"):
            if output.accepted_tokens or output.rejected_tokens:
                fields[name] = getattr(output, name)
        return json.dumps(fields)

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        """Return a token's text and log-probability, and the likeliest tokens at its position."""

        def one(token: int, logprob: float) -> dict[str, Any]:
            return {"token": self.plain.decode([token]), "logprob": logprob}

        return one(score.token, score.logprob) | {"top": [one(*pair) for pair in score.top]}


def numbered(requests: Sequence[Request]) -> list[Request]:
    """Return the requests, numbered by `repeat` among those with the same prompt and seed."""
    counts: dict[tuple[str | tuple[int, ...], int], int] = {}
    numbered = []
    for request in requests:
        key = (request.prompt, request.sampling.seed)
        numbered.append(replace(request, repeat=counts.get(key, 0)))
        counts[key] = counts.get(key, 0) + 1
    return numbered


def _bias_pairs(bias: Any) -> tuple[tuple[int, float], ...]:
    """Return a mapping of ids to biases as sorted pairs. The ids may be strings, as in JSON."""
    try:
        return tuple(sorted((int(token), float(value)) for token, value in dict(bias).items()))
    except (TypeError, ValueError):
        problem = f"must map ids of tokens to numbers, not {bias!r}"
        raise RequestError("logit_bias", problem) from None
