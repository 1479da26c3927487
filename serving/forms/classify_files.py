"""The bodies of `/v1/classify` for images and audio."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.upload import UploadForm


class ClassifyFileForm(UploadForm):
    """The form fields that are sent with an image or audio file.

    top_k: number of labels to return, the likeliest first; None: all.
    """

    top_k: Annotated[int, Ge(1)] | None = None


class FileLabelScore(AnswerModel):
    """A label and its probability."""

    label: str
    score: float


class ClassifyAnswer(AnswerModel):
    """The likeliest label of a file, and the labels with their probabilities, the likeliest
    first."""

    object: Literal["classification"] = "classification"
    model: str
    label: str
    scores: Sequence[FileLabelScore]
