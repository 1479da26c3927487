"""The bodies of `/v1/completions`."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from annotated_types import Interval

from configs.schema.serve import Serve
from serving.errors import invalid
from serving.forms.answers import AnswerModel, Usage
from serving.forms.inputs import described
from serving.forms.sampling import WritingForm, within

Element = TypeVar("Element")

Many = Annotated[list[Element], pydantic.Field(max_length=1 << 14)]
"""A list with elements that are not numbers, and a limit: to read hundreds of thousands takes a
second."""

Tokens = list[Annotated[int, Interval(ge=0, le=(1 << 31) - 1)]]
"""A list of token ids."""


class CompletionForm(WritingForm):
    """A request to continue prompts: texts, or lists of token ids."""

    refused: ClassVar = {
        "suffix": "the models here write from left to right",
        "best_of": "ask for n answers, and choose among them",
    }
    harmless: ClassVar = {"suffix": ("",), "best_of": (1,)}

    prompt: Annotated[
        str | Tokens | Many[str] | Many[Tokens],
        described("be a text, a list of texts, a list of token ids, or a list of such lists"),
    ] = ""
    max_tokens: Annotated[int, Interval(ge=0, le=(1 << 31) - 1)] = 16
    echo: bool = False
    logprobs: Annotated[int, Interval(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Return the prompts as a list."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return list(prompt)

    def check(self, limits: Serve) -> None:
        super().check(limits)
        within(self.max_tokens, limits.max_tokens, "max_tokens")
        within(len(self.prompts), limits.max_prompts, "prompt", "prompts")
        if not self.prompts or [] in self.prompts:
            raise invalid("prompt must not be an empty list", "prompt")
        if self.stream and self.echo and self.logprobs is not None:
            raise invalid("logprobs of an echoed prompt are not streamed", "stream")


class CompletionLogprobs(AnswerModel):
    """The log-probabilities of a text's tokens, one entry for each token. The first token of a
    prompt has none: null. text_offset: the positions of the tokens in the text, in characters."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(AnswerModel):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class CompletionAnswer(AnswerModel):
    """The answers to a request, or an event of a streamed answer."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: Iterable[CompletionChoice]
    usage: Usage | None = None
