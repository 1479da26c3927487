"""The data source of conversations, to train a model on the assistant's answers."""

from typing import ClassVar, Literal

from configs.schema.settings import FilePath, PlainText, field
from configs.schema.source import DecodedText, Length, TokenizedText, UserFiles


class Conversations(DecodedText, UserFiles, TokenizedText):
    """The user's conversations, in tables. Only the assistant's tokens count in the loss."""

    modality: ClassVar = "text"

    source: Literal["conversations"] = "conversations"
    path: FilePath | None = field(
        meaning="The conversations: .jsonl, .csv, .tsv (each may be compressed) or .parquet; none: "
        "a small generated set for a first try.",
        required=False,
    )
    prompt_field: PlainText = field(
        "prompt",
        "Field that contains the user's message.",
        aliases=("instruction_field", "question_field", "input_field"),
    )
    answer_field: PlainText = field(
        "answer",
        "Field that contains the assistant's answer.",
        aliases=("completion_field", "response_field", "output_field"),
    )
    messages_field: PlainText = field(
        "messages",
        "Field with a list of messages (role and content, or from and value); a record may have it "
        "instead of prompt and answer.",
        aliases=("conversations_field",),
    )
    chat_template: PlainText | None = field(
        None,
        "Jinja template that formats messages as text, as in Hugging Face: its text, not its file; "
        "none: the role and a colon, then the message.",
        aliases=("template", "prompt_template"),
    )
    sequence_length: Length = field(
        meaning="Length of the windows that conversations are packed into, which is the model's "
        "context length."
    )
