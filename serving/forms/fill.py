"""The bodies of `/v1/fill`."""

from collections.abc import Sequence
from typing import Literal

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class FillForm(TextsForm):
    """A request to fill in each `[MASK]` of texts."""


class Candidate(AnswerModel):
    """A token that may stand in a gap. score: its probability."""

    token: str
    score: float


class FilledText(AnswerModel):
    """A text with the likeliest token in each gap. candidates: the likeliest tokens of each gap."""

    index: int
    text: str
    candidates: Sequence[Sequence[Candidate]]


class FillAnswer(AnswerModel):
    """All texts, in their order."""

    object: Literal["list"] = "list"
    model: str
    data: Sequence[FilledText]
    usage: ReadUsage
