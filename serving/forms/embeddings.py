"""The bodies of `/v1/embeddings`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from configs.schema.serve import Serve
from serving.errors import invalid
from serving.forms.answers import AnswerModel
from serving.forms.completions import Tokens
from serving.forms.form import Form
from serving.forms.inputs import ReadUsage, check_inputs, described, place

Inputs = Annotated[
    str | Tokens | list[str] | list[Tokens],
    described("be a text, a list of texts, a list of token ids, or a list of such lists"),
]


class EmbeddingForm(Form):
    """A request for the embeddings of inputs: texts, or lists of token ids.

    dimensions: if given, it must be the width of the model.
    """

    input: Inputs
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Ge(1)] | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """Return the inputs as a list."""
        given: Any = self.input
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)

    def check(self, limits: Serve) -> None:
        inputs = self.inputs
        check_inputs(inputs, limits)
        for number, one in enumerate(inputs):
            if not len(one):
                name = place("input", number, len(inputs))
                raise invalid(f"{name} must not be empty", name)


class Embedding(AnswerModel):
    """The embedding of an input, a vector of length 1: a list of numbers, or base64 of
    little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(AnswerModel):
    """The embeddings of all inputs, in the order of the input."""

    object: Literal["list"] = "list"
    model: str
    data: Sequence[Embedding]
    usage: ReadUsage
