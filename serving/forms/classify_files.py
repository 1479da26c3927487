"""The bodies of `/v1/classify` for pictures and recordings."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from serving.forms.answers import AnswerModel
from serving.forms.upload import UploadForm


class ClassifyFileForm(UploadForm):
    """The fields beside a picture or recording. top_k: how many labels are told, the likeliest
    first; all of them if it is not given."""

    top_k: Annotated[int, Ge(1)] | None = None


class FileLabelScore(AnswerModel):
    """A label and its probability."""

    label: str
    score: float


class ClassifyAnswer(AnswerModel):
    """The likeliest label of a file, and the probabilities of labels, in falling order."""

    object: Literal["classification"] = "classification"
    model: str
    label: str
    scores: Sequence[FileLabelScore]
