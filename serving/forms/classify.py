"""The bodies of `/v1/classify` for texts."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class ClassifyTextsForm(TextsForm):
    """A request to classify texts. top_k: number of labels to return for each text, the likeliest
    first; all if it is left out."""

    top_k: Annotated[int, Ge(1)] | None = None


class LabelScore(AnswerModel):
    """A label and its probability."""

    label: str
    score: float


class ClassifiedText(AnswerModel):
    """The likeliest label of a text, and the labels with their probabilities, the likeliest
    first."""

    index: int
    label: str
    scores: Sequence[LabelScore]


class ClassifyTextsAnswer(AnswerModel):
    """The labels of all texts, in the order of the input.

    warnings: a message for each text that was cut because it is longer than what the model reads.
    """

    object: Literal["list"] = "list"
    model: str
    data: Sequence[ClassifiedText]
    usage: ReadUsage
    warnings: Sequence[str]
