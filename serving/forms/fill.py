"""The bodies of `/v1/fill`."""

from collections.abc import Sequence
from typing import Literal

from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, TextsForm


class FillForm(TextsForm):
    """A request to fill in each `[MASK]` in texts."""


class Candidate(AnswerModel):
    """A token that can fill a gap. score: its probability."""

    token: str
    score: float


class FilledText(AnswerModel):
    """A text whose gaps are filled with their likeliest tokens. candidates: the likeliest tokens
    for each gap."""

    index: int
    text: str
    candidates: Sequence[Sequence[Candidate]]


class FillAnswer(AnswerModel):
    """The filled texts, in the order of the input."""

    object: Literal["list"] = "list"
    model: str
    data: Sequence[FilledText]
    usage: ReadUsage
