"""The source of conversations; a model learns the assistant's answers."""

from typing import ClassVar, Literal

from configs.schema.settings import field
from configs.schema.source import (
    INVALID_UTF8,
    FilePath,
    InvalidUTF8,
    Length,
    PlainText,
    Source,
    sequence_length_field,
    user_path_field,
)
from configs.schema.tokenizers import BPE, Tokenizer


class Conversations(Source):
    """The user's conversations as JSON lines. Only the assistant's part is learnt."""

    modality: ClassVar = "text"

    source: Literal["conversations"] = field("conversations", "Source of the examples.")
    path: FilePath | None = user_path_field(
        "The conversations, .jsonl or .jsonl.gz; none: a small generated set, to try it.",
        required=False,
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
        "Field that may replace prompt and answer: a list of messages with role and content.",
        aliases=("conversations_field",),
    )
    chat_template: PlainText | None = field(
        None,
        "Jinja template that writes messages as text, as in Hugging Face; none: roles and a colon.",
        aliases=("template", "prompt_template"),
    )
    sequence_length: Length = sequence_length_field(
        "Length of the windows that conversations are packed into: the context of the model."
    )
    tokenizer: Tokenizer = field(BPE(), "How text becomes tokens.")
    invalid_utf8: InvalidUTF8 = INVALID_UTF8
