"""The bodies of `/v1/translate`."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class TranslateForm(TextsForm):
    """A request to answer each text with a text.

    beam_size, length_penalty: must be those that the model is served with, if they are given.
    """

    beam_size: Annotated[int, Ge(1)] | None = None
    length_penalty: float | None = None


class TranslatedText(AnswerModel):
    """The answer to a text. score: its log-probability, divided by the penalty of its length."""

    index: int
    text: str
    score: float


class TranslateAnswer(AnswerModel):
    """All answers, in the order of their texts.

    warnings: which texts are longer than what the model reads, and were cut.
    """

    object: Literal["list"] = "list"
    model: str
    data: Sequence[TranslatedText]
    usage: ReadUsage
    warnings: Sequence[str]
