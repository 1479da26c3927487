"""Transcripts of recordings."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from configs.json_text import json_text
from configs.schema.config import Config
from inference.files import Unreadable, answer_files
from inference.predictors.predictor import FilePredictor, Prediction, Warn, ignore

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.recordings import ReadRecording
    from inference.transcription import Transcriber
    from training.model_def import ModelDef

AT_ONCE = 256
"""Recordings that are sorted by their lengths together."""


class Transcription(FilePredictor[tuple[str, Prediction]]):
    """Writes down what is said in each recording."""

    fields: ClassVar = frozenset(("input", "beam_size"))
    required: ClassVar = {"input": "a recording file"}
    input_kind = "a recording"

    def __init__(self, transcriber: "Transcriber", read: "ReadRecording"):
        self.batch_predictor, self._read = transcriber, read

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from inference.recordings import recording_reader
        from inference.transcription import Transcriber

        assert tokenizer is not None
        read = recording_reader(model_def.config.data, model_def.data_spec)
        return cls(Transcriber.of(model_def, tokenizer), read)

    @classmethod
    def configure(cls, config: Config, request: Mapping[str, Any]) -> Config:
        if "beam_size" not in request:
            return config
        asked = {"decoder": "beam", "beam_size": request["beam_size"]}
        return config.model_copy(update={"task": config.task.model_copy(update=asked)})

    def predict(
        self, module: "nnx.Module", inputs: Iterable[str], *, warn: Warn = ignore
    ) -> Iterator[tuple[str, Prediction] | Unreadable]:
        return answer_files(
            list(inputs),
            self._read,
            lambda names, recordings: [
                *zip(names, self.batch_predictor.transcribe(module, recordings), strict=True)
            ],
            AT_ONCE,
        )

    def render(self, output: tuple[str, Prediction], *, as_json: bool) -> str:
        name, written = output
        if as_json:
            return json_text({"input": name, "text": written.text, "score": written.score})
        return " ".join(written.text.splitlines())
