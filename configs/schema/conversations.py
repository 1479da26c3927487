"""Sources of conversations, whose answers are learnt."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, field
from configs.schema.source import INVALID_UTF8, PATH_NAMES, FilePath, InvalidUTF8, PlainText, Source
from configs.schema.tokenizers import BPE, Tokenizer


class Conversations(Source):
    """The user's conversations as JSON lines; the assistant's part is learnt."""

    modality: ClassVar = "text"

    source: Literal["conversations"] = field("conversations", "Source of the examples.")
    path: FilePath | None = field(
        None,
        "The conversations, .jsonl or .jsonl.gz; none: a small generated set, to try it.",
        mutable_on_resume=True,
        accepts="a file, a folder or a glob",
        aliases=PATH_NAMES,
    )
    prompt_field: PlainText = field(
        "prompt",
        "Field of a record that holds what the user says.",
        aliases=("instruction_field", "question_field", "input_field"),
    )
    answer_field: PlainText = field(
        "answer",
        "Field of a record that holds what the assistant answers.",
        aliases=("completion_field", "response_field", "output_field"),
    )
    messages_field: PlainText = field(
        "messages",
        "Field that a record may have in their place: messages with a role and its content.",
        aliases=("conversations_field",),
    )
    chat_template: PlainText | None = field(
        None,
        "Jinja that writes messages as text, as Hugging Face has it; none: roles and a colon.",
        aliases=("template", "prompt_template"),
    )
    sequence_length: Annotated[int, Interval(ge=2, le=INTEGER_LIMIT)] = field(
        256,
        "Length of the windows that conversations are packed into: the context of the model.",
        unit="tokens",
        aliases=("block_size", "context_length", "seq_len", "max_length"),
    )
    tokenizer: Tokenizer = field(BPE(), "How text becomes tokens.")
    invalid_utf8: InvalidUTF8 = INVALID_UTF8
