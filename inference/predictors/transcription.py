"""The predictor that transcribes recordings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from configs.json_text import json_text
from configs.schema.config import Config
from configs.schema.task import SpeechRecognition
from inference.predictors.predictor import FilePredictor, Prediction

if TYPE_CHECKING:
    import numpy as np
    from flax import nnx

    from data.codecs.sound import RecordingReader
    from data.codecs.tokenizers import Tokenizer
    from inference.transcription import Transcriber
    from training.model_def import ModelDef


class Transcription(FilePredictor[tuple[str, Prediction]]):
    """Transcribes each recording."""

    fields: ClassVar = frozenset(("input", "beam_size"))
    required: ClassVar = {"input": "a recording file"}
    input_kind = "a recording"
    batch_predictor: "Transcriber"
    read: "RecordingReader"
    batch_size = 256  # recordings that are sorted by their lengths together

    def __init__(self, transcriber: "Transcriber", read: "RecordingReader"):
        self.batch_predictor, self.read = transcriber, read

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from inference.recordings import recording_reader
        from inference.transcription import Transcriber

        task = model_def.config.task
        assert tokenizer is not None and isinstance(task, SpeechRecognition)
        read = recording_reader(model_def.config.data, model_def.data_spec)
        transcriber = Transcriber(
            tokenizer,
            decoder=task.decoder,
            beam_size=task.beam_size,
            mesh=model_def.mesh,
            rules=model_def.rules,
        )
        return cls(transcriber, read)

    @classmethod
    def configure(cls, config: Config, request: Mapping[str, Any]) -> Config:
        if "beam_size" not in request:
            return config
        search = {"decoder": "beam", "beam_size": request["beam_size"]}
        return config.model_copy(update={"task": config.task.model_copy(update=search)})

    def predict_contents(
        self, module: "nnx.Module", names: Sequence[str], contents: Sequence["np.ndarray"]
    ) -> list[tuple[str, Prediction]]:
        return [*zip(names, self.batch_predictor.transcribe(module, contents), strict=True)]

    def render(self, output: tuple[str, Prediction], *, as_json: bool) -> str:
        name, written = output
        if as_json:
            return json_text({"input": name, "text": written.text, "score": written.score})
        return " ".join(written.text.splitlines())
