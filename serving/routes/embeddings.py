"""`/v1/embeddings`: vectors of texts; those of similar texts are near each other."""

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from inference.embeddings import TextEmbedding
from inference.predictors.classification import TextClassification
from inference.predictors.completion import TextCompletion
from inference.predictors.filling import GapFilling
from serving.batches import answer_inputs, answer_with, read_inputs
from serving.errors import invalid
from serving.forms.embeddings import Embedding, EmbeddingAnswer, EmbeddingForm
from serving.forms.inputs import ReadUsage
from serving.responses import fast_json_response
from serving.route import Route
from serving.service import Service

Ids = NDArray[np.int32]
"""The token ids of an input, [tokens]."""


def routes(service: Service) -> list[Route]:
    """Return the route for embeddings; none for a model that does not read single texts."""
    model = service.model
    if not isinstance(service.predictor, TextCompletion | GapFilling | TextClassification):
        return []
    assert model.tokenizer is not None
    sizes = sorted({service.row_sizes[0], service.row_sizes[-1]})
    embedder = TextEmbedding.of(model.restored.model_def, model.module, model.tokenizer, sizes)
    lane = service.batch_lane(
        lambda inputs: embedder.predict(model.module, inputs),
        most_rows=sizes[-1],
        warm_up=lambda: embedder.warm_up(model.module),
    )
    reader = _Reader(embedder, model.tokenizer.vocabulary_size, service.limits.max_input_tokens)

    async def embed(request: Request) -> Response:
        form = await service.read(request, EmbeddingForm)
        if form.dimensions not in (None, embedder.width):
            problem = f"dimensions is {embedder.width} for this model, not {form.dimensions}"
            raise invalid(problem, "dimensions")
        texts = await read_inputs(reader.read, form.inputs)
        tokens = [len(ids) for ids in texts]
        vectors = await answer_inputs(service, lane, request, texts, tokens=tokens)
        is_base64 = form.encoding_format == "base64"

        def body(usage: ReadUsage) -> EmbeddingAnswer:
            return EmbeddingAnswer(
                model=service.name, data=_entries(vectors, is_base64), usage=usage
            )

        return await answer_with(service, tokens, body, fast_json_response)

    return [
        Route(
            "POST",
            "/v1/embeddings",
            embed,
            "Turns texts into vectors.",
            form=EmbeddingForm,
            answer=EmbeddingAnswer,
            example={"model": service.name, "input": ["One text", "Another"]},
        )
    ]


class _Reader:
    """Tokenizes inputs. most: the maximum number of tokens, if the model itself has none."""

    def __init__(self, embedder: TextEmbedding, vocabulary_size: int, most: int):
        self._embedder, self._vocabulary_size = embedder, vocabulary_size
        self._most = most if embedder.longest is None else embedder.longest

    def read(self, given: str | Sequence[int], name: str) -> Ids:
        """Return the tokens of an input; token ids are kept as they are. Raises `ApiError` that
        names the input if it has no tokens, too many, or ids that the vocabulary does not have."""
        if isinstance(given, str):
            ids = self._embedder.encode(given)
            if not len(ids):
                raise invalid(f"{name} has no token", name)
        else:
            if max(given) >= self._vocabulary_size:
                known = self._vocabulary_size - 1
                raise invalid(f"{name} must have ids of tokens from 0 to {known}", name)
            ids = np.array(given, np.int32)
        if len(ids) > self._most:
            limit = "the limit here" if self._embedder.longest is None else "what this model reads"
            problem = f"{name} has {len(ids)} tokens, more than {self._most}, {limit}"
            raise invalid(problem, name, "context_length_exceeded")
        return ids


def _entries(vectors: Sequence[NDArray[np.float32]], is_base64: bool) -> list[Embedding]:
    entries: list[Embedding] = []
    for index, vector in enumerate(vectors):
        if not np.isfinite(vector).all():
            raise ArithmeticError("an embedding is not finite: the model's states are not")
        little = vector.astype("<f4")
        coded = base64.b64encode(little.tobytes()).decode() if is_base64 else vector.tolist()
        entries.append(Embedding(index=index, embedding=coded))
    return entries
