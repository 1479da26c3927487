"""The chat template of a trained model, in the form that other programs read."""

from data.codecs.chat import TEMPLATE, ChatEncoder
from data.codecs.tokenizers import Tokenizer


def document_template(tokenizer: Tokenizer, source: str | None) -> str:
    """Return a template that writes a whole conversation, with the tokens that open a document.

    `ChatEncoder` puts these tokens before what the template `source` writes, unless the template
    writes them itself. Other programs encode what a template writes and add nothing.
    """
    encoder, ids = ChatEncoder(tokenizer, source), tokenizer.special_tokens()
    opening = tokenizer.document_opening.tolist()
    written = []
    for piece in encoder.template.opening([{"role": "user", "content": "a"}]):
        if not piece.is_special or ids[piece.text] not in opening:
            break
        written.append(ids[piece.text])
    missing = opening[: len(opening) - len(written)]
    names = {number: name for name, number in ids.items()}
    return "".join(names[number] for number in missing) + (TEMPLATE if source is None else source)
