"""The predictor that continues prompts."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from inference.engine.constraints import CONSTRAINT_FIELDS, Constraint
from inference.predictors.predictor import (
    SAMPLING_FIELDS,
    WRITING_FIELDS,
    Predictor,
    Warn,
    ignore,
)
from inference.requests import Completion, Request, RequestError, Sampling, TokenLogprob

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.generation import Generator, OnText
    from training.model_def import ModelDef

_JSON_FIELDS = ("prompt", "prompt_tokens", "tokens", "text", "finish_reason")
_REQUEST_FIELDS = WRITING_FIELDS - SAMPLING_FIELDS - {"n"}


class TextCompletion(Predictor[Request, Completion]):
    """Continues each prompt with generated text. For a chat model, a prompt is the user's
    message."""

    fields = WRITING_FIELDS | {"prompt", "stream", *CONSTRAINT_FIELDS}
    required: ClassVar = {"prompt": "a text to go on with"}
    may_span_lines = True

    def __init__(self, generator: "Generator", tokenizer: "Tokenizer"):
        self._generator, self._tokenizer = generator, tokenizer

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from data.codecs.chat import for_prompts
        from inference.generation import Generator

        assert tokenizer is not None
        generator = Generator(
            for_prompts(tokenizer, model_def.config.data),
            context=model_def.data_spec.require("max_length"),
            mesh=model_def.mesh,
            rules=model_def.rules,
        )
        return cls(generator, tokenizer)

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        return "is for pictures, and this model writes text: give --prompt"

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> list[Request]:
        count = request.get("n", 1)
        if not isinstance(count, int) or count < 1:
            raise RequestError("n", f"must be a whole number >= 1, not {count!r}")
        others = {name: request[name] for name in _REQUEST_FIELDS if name in request}
        drawn = {name: request[name] for name in SAMPLING_FIELDS if name in request}
        if "logit_bias" in drawn:
            drawn["logit_bias"] = _bias_pairs(drawn["logit_bias"])
        others |= {"sampling": Sampling(**drawn), "constraint": Constraint.of(request)}
        return [Request(prompt, **others) for prompt in request["prompt"] for _ in range(count)]

    def predict(
        self,
        module: "nnx.Module",
        inputs: Iterable[Request],
        *,
        warn: Warn = ignore,
        on_text: "OnText | None" = None,
    ) -> Iterator[Completion]:
        """Complete the requests, in order. on_text: as in `Generator.complete`."""
        requests = list(inputs)
        for request in requests:
            if self._tokenizer.decode(self._tokenizer.encode(request.prompt)) != request.prompt:
                warn(f"the prompt {request.prompt!r} has characters that the training text has not")
        return iter(self._generator.complete(module, requests, on_text))

    def render(self, output: Completion, *, as_json: bool) -> str:
        if not as_json:
            return output.text
        fields = {name: getattr(output, name) for name in _JSON_FIELDS}
        for name in ("prompt_logprobs", "logprobs"):
            if scores := getattr(output, name):
                fields[name] = [self._score(score) for score in scores]
        return json.dumps(fields)

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        """Return a token's text and log-probability, and the likeliest tokens at its position."""

        def one(token: int, logprob: float) -> dict[str, Any]:
            return {"token": self._tokenizer.decode([token]), "logprob": logprob}

        return one(score.token, score.logprob) | {"top": [one(*pair) for pair in score.top]}


def _bias_pairs(bias: Any) -> tuple[tuple[int, float], ...]:
    """Return a mapping of ids to biases, whose ids may be texts as in JSON, as sorted pairs."""
    try:
        return tuple(sorted((int(token), float(value)) for token, value in dict(bias).items()))
    except (TypeError, ValueError):
        problem = f"must map ids of tokens to numbers, not {bias!r}"
        raise RequestError("logit_bias", problem) from None
