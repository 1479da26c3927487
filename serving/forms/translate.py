"""The bodies of `/v1/translate`."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class TranslateForm(TextsForm):
    """A request to answer each text with a text, such as its translation.

    beam_size, length_penalty: if given, they must be the values with which the model is served.
    """

    beam_size: Annotated[int, Ge(1)] | None = None
    length_penalty: float | None = None


class TranslatedText(AnswerModel):
    """The answer to a text. score: its log-probability, divided by its length penalty."""

    index: int
    text: str
    score: float


class TranslateAnswer(AnswerModel):
    """The answers to all texts, in the order of the input.

    warnings: a message for each text that was cut because it is longer than what the model reads.
    """

    object: Literal["list"] = "list"
    model: str
    data: Sequence[TranslatedText]
    usage: ReadUsage
    warnings: Sequence[str]
