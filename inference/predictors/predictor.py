"""The base classes of all predictors."""

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

SAMPLING_FIELDS = frozenset(
    (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "seed",
    )
)
"""Fields of a request that control how tokens are drawn."""

WRITING_FIELDS = SAMPLING_FIELDS | {
    "max_tokens",
    "stop",
    "stop_tokens",
    "n",
    "logprobs",
    "prompt_logprobs",
    "context_shift",
    "speculation",
    "prediction",
}
"""Fields of a request that control how a text is generated."""

SEARCH_FIELDS = frozenset(("beam_size", "length_penalty"))
"""Fields of a request that control the search for the best text. They replace the settings of the
same names in the task's configuration."""

LIST_FIELDS = frozenset(("prompt", "input", "stop", "stop_tokens", "choices"))
"""Fields of a request whose values are lists."""


FOR_FILES = "is for models that read pictures, recordings or files to translate"
ASK_FOR_PROMPT = 'give --prompt="TEXT", or --prompt="$(cat FILE)" for the text in a file'
"""Parts of the refusal of `input` by models that read prompts only."""


def ignore(warning: str) -> None:
    """Ignore a warning. This is the default of `warn`."""


@dataclass(frozen=True)
class Prediction:
    """A text that a model generated, and its score. A higher score means that the model is more
    certain."""

    text: str
    score: float


class Predictor(Generic[Input, Output]):
    """Answers inputs of one kind, with models of one `ModelDef`.

    A request is a mapping of field names to values, from a command line or a JSON body: `prompt` (a
    list of texts), `input` (a list of paths), and settings.

    fields: the fields that a request may have.
    required: fields with their meanings; a request must have at least one of them.
    input_kind: the kind of file that `input` names, such as "a picture"; None if the predictor
        reads no files.
    may_span_lines: whether a rendered answer can have several lines.
    batch_predictor: answers whole batches of an evaluation; None if the task has no generated texts
        to evaluate.

    A predictor keeps its compiled functions, so it can answer with other weights of its model
    without compiling again.
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
        """Raise `RequestError` for a field that models of `task` can't take, for a missing field,
        and for a text in place of a list.

        spell(name): returns the field as the message shows it, for example "--prompt=VALUE".
        """
        for name, value in request.items():
            if name in cls.fields:
                if name in LIST_FIELDS and isinstance(value, str):
                    raise RequestError(name, f"must be a list of texts, not the text {value!r}")
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
        """Return the reason why a request can't have `field`, and what to give instead.

        The text follows the name of the field in the error message. `field` is never one of
        `SEARCH_FIELDS`.
        """
        raise NotImplementedError

    @classmethod
    def configure(cls, config: Config, request: Mapping[str, Any]) -> Config:
        """Return `config` with the search settings of the request."""
        given = {name: request[name] for name in SEARCH_FIELDS if name in request}
        return config.model_copy(update={"task": config.task.model_copy(update=given)})

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> Iterable[Input]:
        """Return the inputs of a request. Its fields are already checked.

        Raises `RequestError` for a value out of its range.
        """
        raise NotImplementedError

    @classmethod
    def of(cls, model_def: "ModelDef", tokenizer: "Tokenizer | None") -> Self:
        """Build the predictor for models of `model_def`, with the settings of its configuration."""
        raise NotImplementedError

    def predict(
        self, module: "nnx.Module", inputs: Iterable[Input], *, warn: Warn = ignore
    ) -> "Iterator[Output | Unreadable]":
        """Answer each input, in order; yield `Unreadable` for an input that can't be read.

        warn: called with a message for each input that the model can't take as it is.
        """
        raise NotImplementedError

    def render(self, output: Output, *, as_json: bool) -> str:
        """Return an answer as text for people, or as one JSON object."""
        raise NotImplementedError


class PromptPredictor(Predictor[str, Output]):
    """Base class of predictors that read prompts and have no settings."""

    fields = frozenset(("prompt",))
    required: ClassVar = {"prompt": "a text"}

    @classmethod
    def refusal(cls, field: str, task: str) -> str:
        if field == "input":
            return f"{FOR_FILES}, and this one reads prompts: {ASK_FOR_PROMPT}"
        return (
            f"is for models that write texts, and this one was trained for {task}: give --prompt "
            "alone"
        )

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> list[str]:
        return list(request["prompt"])


class FilePredictor(Predictor[str, Output]):
    """Base class of predictors that read files of one kind. Each input is a path.

    At most `batch_size` files are in memory at once.
    """

    fields = frozenset(("input",))
    input_kind: ClassVar[str]
    batch_size: ClassVar[int]

    read: Callable[[bytes], Any]
    """Decode a file's content for the model; raise ValueError if it can't be read. It can be
    pickled, and called where JAX is not imported."""

    def predict_contents(
        self, module: "nnx.Module", names: Sequence[str], contents: Sequence[Any]
    ) -> Sequence[Output]:
        """Answer the files `names`. contents: their decoded contents."""
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
