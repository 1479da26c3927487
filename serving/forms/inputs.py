"""Parts of the bodies of routes that answer each input as a whole."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pydantic

from configs.schema.serve import Serve
from serving.errors import invalid
from serving.forms.answers import AnswerModel
from serving.forms.form import Form
from serving.forms.sampling import within


def described(problem: str) -> pydantic.WrapValidator:
    """Return a validator that raises ValueError with `problem`, in place of one error for each type
    of a union."""

    def validate(value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except pydantic.ValidationError:
            raise ValueError(problem) from None

    return pydantic.WrapValidator(validate)


Texts = Annotated[str | list[str], described("be a text or a list of texts")]


class TextsForm(Form):
    """A request about one text or several, each of which is answered as a whole."""

    input: Texts

    @property
    def texts(self) -> list[str]:
        """Return the texts as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    def check(self, limits: Serve) -> None:
        check_inputs(self.texts, limits)


def check_inputs(inputs: Sequence[str | Sequence[int]], limits: Serve) -> None:
    """Raise `ApiError` if there are no inputs, too many, or one with too many characters."""
    if not inputs:
        raise invalid("input must not be an empty list", "input")
    within(len(inputs), limits.max_prompts, "input", "texts")
    for number, one in enumerate(inputs):
        if isinstance(one, str):
            most = limits.max_input_characters
            within(len(one), most, place("input", number, len(inputs)), "characters")


def place(param: str, number: int, count: int) -> str:
    """Return the name of input `number` in errors, if `param` has `count` inputs: `input`, or
    `input.3`."""
    return param if count == 1 else f"{param}.{number}"


class ReadUsage(AnswerModel):
    """The numbers of tokens that the model read."""

    prompt_tokens: int
    total_tokens: int
