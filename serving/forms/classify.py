"""The bodies of `/v1/classify`."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class ClassifyTextsForm(TextsForm):
    """A request to label texts. top_k: how many labels are told of each, the likeliest first; all
    of them if it is not given."""

    top_k: Annotated[int, Ge(1)] | None = None


class LabelScore(AnswerModel):
    """A label and its probability."""

    label: str
    score: float


class ClassifiedText(AnswerModel):
    """The likeliest label of a text, and the probabilities of labels, in falling order."""

    index: int
    label: str
    scores: Sequence[LabelScore]


class ClassifyTextsAnswer(AnswerModel):
    """The labels of all texts, in their order.

    warnings: which texts are longer than what the model reads, and were cut.
    """

    object: Literal["list"] = "list"
    model: str
    data: Sequence[ClassifiedText]
    usage: ReadUsage
    warnings: Sequence[str]
