"""The chat template of a trained model, in the form that other programs read."""

from collections.abc import Sequence

from data.codecs.chat import TEMPLATE, ChatEncoder
from data.codecs.tokenizers import Tokenizer


def document_template(tokenizer: Tokenizer, source: str | None) -> tuple[str, Sequence[str]]:
    """Return a template that writes a whole conversation, with the tokens that open a document, and
    notes for the user.

    `ChatEncoder` puts these tokens before what the template `source` writes, unless the template
    writes them itself. Other programs encode what a template writes and add nothing.
    """
    encoder, ids = ChatEncoder(tokenizer, source), tokenizer.special_tokens()
    names = {number: name for name, number in ids.items()}
    opening = [names[number] for number in tokenizer.document_opening.tolist()]
    written = []
    for piece in encoder.template.opening([{"role": "user", "content": "a"}]):
        if not piece.is_special or piece.text not in opening:
            break
        written.append(piece.text)
    template = TEMPLATE if source is None else source
    missing = opening[: len(opening) - len(written)]
    if missing + written != opening:
        return template, [f"the chat template opens a conversation with {' '.join(written)}"]
    return "".join(missing) + template, ()
