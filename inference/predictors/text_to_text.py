"""The predictor for tasks that generate a text from a text, such as translation."""

import codecs
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from configs.errors import UsageError
from configs.json_text import json_text
from configs.schema.task import SequenceToSequence
from inference.files import Unreadable
from inference.predictors.predictor import SEARCH_FIELDS, Prediction, Predictor, Warn, ignore

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.translation import Translator
    from training.model_def import ModelDef

BATCH_SIZE = 1024
"""Number of texts that are read before the first answer is returned."""


@dataclass(frozen=True)
class Source:
    """A source text. place: where it comes from, for messages, such as "line 3 of FILE"."""

    place: str
    text: str


class TextToText(Predictor[Source | Unreadable, tuple[Source, Prediction]]):
    """Answers each prompt, then each line of the input files, with a text."""

    fields = SEARCH_FIELDS | {"prompt", "input"}
    required: ClassVar = {
        "input": "a text file to translate line by line; - for standard input",
        "prompt": "a text",
    }
    input_kind = "a text file"
    batch_predictor: "Translator"

    def __init__(self, translator: "Translator", tokenizer: "Tokenizer"):
        self.batch_predictor, self._tokenizer = translator, tokenizer

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        from inference.translation import Translator

        task, spec = model_def.config.task, model_def.data_spec
        assert tokenizer is not None and isinstance(task, SequenceToSequence)
        translator = Translator(
            tokenizer,
            beam_size=task.beam_size,
            length_penalty=task.length_penalty,
            answer_length_ratio=task.answer_length_ratio,
            max_source_length=spec.require("max_source_length"),
            max_length=spec.require("max_length"),
            mesh=model_def.mesh,
            rules=model_def.rules,
        )
        return cls(translator, tokenizer)

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        return (
            f"is for language models, and this one was trained for {task}: give --input=FILE or "
            "--prompt"
        )

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> Iterator[Source | Unreadable]:
        """Yield the texts lazily: the prompts, then the lines of the files. A line that is not
        UTF-8 is `Unreadable`. Raises `UsageError` for a file that is not a text."""
        for number, prompt in enumerate(request.get("prompt", ()), start=1):
            yield Source(f"prompt {number}", prompt)
        for path in request.get("input", ()):
            with contextlib.ExitStack() as opened:
                file = (
                    sys.stdin.buffer if path == "-" else opened.enter_context(Path(path).open("rb"))
                )
                where = "standard input" if path == "-" else path
                for number, line in enumerate(file, start=1):
                    yield _decoded(f"line {number} of {where}", line, is_first=number == 1)

    def predict(
        self,
        module: "nnx.Module",
        inputs: Iterable[Source | Unreadable],
        *,
        warn: Warn = ignore,
    ) -> Iterator[tuple[Source, Prediction] | Unreadable]:
        remaining = iter(inputs)
        while some := list(itertools.islice(remaining, BATCH_SIZE)):
            sources = [one for one in some if isinstance(one, Source)]
            texts = [source.text for source in sources]
            for source, ids in zip(sources, self._tokenizer.encode_many(texts), strict=True):
                self._warn_of_length(source.place, len(ids), warn)
            answers = iter(self.batch_predictor.translate(module, texts))
            for one in some:
                yield (one, next(answers)) if isinstance(one, Source) else one

    def encode(self, text: str, *, place: str, warn: Warn = ignore) -> list[int]:
        """Return the tokens that the model reads of a text, for `Translator.translate_sources`.
        place: the name of the text in a warning."""
        (source,) = self.batch_predictor.sources([text])
        if len(source) > self.batch_predictor.longest:
            self._warn_of_length(place, len(self._tokenizer.encode(text)), warn)
        return source

    def _warn_of_length(self, place: str, count: int, warn: Warn) -> None:
        longest = self.batch_predictor.longest
        if count > longest:
            warn(f"{place} has {count} tokens, of which this model reads the first {longest}")

    def render(self, output: tuple[Source, Prediction], *, as_json: bool) -> str:
        source, written = output
        if as_json:
            return json_text({"source": source.text, "text": written.text, "score": written.score})
        return " ".join(written.text.splitlines())


def _decoded(place: str, line: bytes, *, is_first: bool) -> Source | Unreadable:
    if is_first:
        line = line.removeprefix(codecs.BOM_UTF8)
    if b"\0" in line:  # UTF-16, or not a text
        raise UsageError(f"{place} is no UTF-8 text, it has a NUL: convert the file")
    try:
        return Source(place, line.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Unreadable(place, f"no UTF-8 text, byte 0x{line[error.start]:02x}")
