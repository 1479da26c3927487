"""The interface of all predictors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from configs.schema.config import Config
from inference.files import Unreadable, answer_files
from inference.requests import RequestError

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.evaluation import BatchPredictor
    from training.model_def import ModelDef

Input = TypeVar("Input")
Output = TypeVar("Output")
Warn = Callable[[str], None]

WRITING_FIELDS = frozenset(
    ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed")
)
"""Fields of a request that say how a text is written."""

SEARCH_FIELDS = frozenset(("beam_size", "length_penalty"))
"""Fields of a request that say how the best text is searched for; they are the task's too."""


def ignore(warning: str) -> None:
    """Take a warning that nobody wants to read."""


@dataclass(frozen=True)
class Prediction:
    """A text that a model wrote, and its score: the larger, the surer the model is."""

    text: str
    score: float


class Predictor(Generic[Input, Output]):
    """Answers of one kind, for the models of one definition.

    A request is a mapping of field names to values, as a command line or a JSON body gives it:
    `prompt` (a list of texts), `input` (a list of paths), and settings. `fields` are those that a
    request may have; of those in `required`, each with its meaning, it must have one. `input_kind`:
    what kind of file `input` names, None if there is none. `may_span_lines`: whether an answer
    in words can have several lines.

    A predictor keeps what it compiles, and answers with any weights of its model. Where answers
    are compared with right ones, `batch_predictor` answers whole batches of an evaluation.
    """

    fields: ClassVar[frozenset[str]]
    required: ClassVar[Mapping[str, str]]
    input_kind: ClassVar[str | None] = None
    may_span_lines: ClassVar[bool] = False
    batch_predictor: "BatchPredictor | None" = None

    @classmethod
    def check_fields(
        cls, request: Mapping[str, Any], task: str, spell: Callable[[str], str] = str
    ) -> None:
        """Raise `RequestError` for a field that models of `task` can't take, or one missing.

        spell: how a message shows a field with its value, as "--prompt=VALUE".
        """
        for name in request:
            if name in cls.fields:
                continue
            if name in SEARCH_FIELDS:
                problem = f"is for models that translate, and this one was trained for {task}"
            else:
                problem = cls.refusal(name, task)
            raise RequestError(name, problem)
        if not cls.required.keys() & request.keys():
            ways = [f"{spell(name)} ({meaning})" for name, meaning in cls.required.items()]
            raise RequestError(next(iter(cls.required)), f"is missing: {', or '.join(ways)}")

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        """Return why a request can't have `field`, and what to give instead.

        The text goes on after the field's name, which is none of `SEARCH_FIELDS`."""
        raise NotImplementedError

    @classmethod
    def configure(cls, config: Config, request: Mapping[str, Any]) -> Config:
        """Return the configuration with what the request says of the task."""
        given = {name: request[name] for name in SEARCH_FIELDS if name in request}
        return config.model_copy(update={"task": config.task.model_copy(update=given)})

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> Iterable[Input]:
        """Return the inputs of a request whose fields are checked.

        Raises `RequestError` for a value that is out of its range.
        """
        raise NotImplementedError

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        """Return the predictor for models of `model_def`, as its configuration says."""
        raise NotImplementedError

    def predict(
        self, module: "nnx.Module", inputs: Iterable[Input], *, warn: Warn = ignore
    ) -> "Iterator[Output | Unreadable]":
        """Answer each input, in order; `Unreadable` stands for one that can't be read.

        `warn` gets a line for each input that the model can't take as it is.
        """
        raise NotImplementedError

    def render(self, output: Output, *, as_json: bool) -> str:
        """Return an answer as a person reads it, or as one JSON object."""
        raise NotImplementedError


class PromptPredictor(Predictor[str, Output]):
    """A predictor that reads prompts and has no settings."""

    fields = frozenset(("prompt",))
    required: ClassVar = {"prompt": "a text"}

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        if field == "input":
            return "is for pictures, and this model reads texts: give --prompt"
        return (
            f"is for models that write texts, and this one was trained for {task}: give --prompt "
            "alone"
        )

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> list[str]:
        return list(request["prompt"])


class FilePredictor(Predictor[str, Output]):
    """A predictor that reads files of one kind; an input is a path.

    `batch_size` files are in memory at once.
    """

    fields = frozenset(("input",))
    input_kind: ClassVar[str]
    batch_size: ClassVar[int]

    read: Callable[[bytes], Any]
    """Returns what the model takes of a file; raises ValueError for one that can't be read."""

    def predict_contents(
        self, module: "nnx.Module", names: Sequence[str], contents: Sequence[Any]
    ) -> Sequence[Output]:
        """Answer the contents of files with these names."""
        raise NotImplementedError

    def predict(
        self, module: "nnx.Module", inputs: Iterable[str], *, warn: Warn = ignore
    ) -> "Iterator[Output | Unreadable]":
        answer = partial(self.predict_contents, module)
        return answer_files(list(inputs), self.read, answer, self.batch_size)

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        kind = cls.input_kind.removeprefix("a ")
        return f"is for texts, and this model reads {kind}s: give --input=FILE"

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> list[str]:
        return list(request["input"])
