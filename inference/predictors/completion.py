"""The predictor that continues prompts."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from inference.predictors.predictor import (
    WRITING_FIELDS,
    Predictor,
    Warn,
    ignore,
)
from inference.requests import Completion, Request, Sampling

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.generation import Generator, OnText
    from training.model_def import ModelDef

_JSON_FIELDS = ("prompt", "prompt_tokens", "tokens", "text")
_REQUEST_FIELDS = ("max_tokens", "stop")


class TextCompletion(Predictor[Request, Completion]):
    """Continues each prompt with generated text. For a chat model, a prompt is the user's
    message."""

    fields = WRITING_FIELDS | {"prompt", "stream"}
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
        limits = {name: request[name] for name in _REQUEST_FIELDS if name in request}
        drawn = {n: request[n] for n in WRITING_FIELDS.difference(_REQUEST_FIELDS) if n in request}
        sampling = Sampling(**drawn)
        return [Request(prompt, sampling=sampling, **limits) for prompt in request["prompt"]]

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
        return json.dumps({name: getattr(output, name) for name in _JSON_FIELDS})
