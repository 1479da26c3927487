"""Chat templates for other programs, which encode what a template writes and add nothing."""

from collections.abc import Sequence

from data.codecs.chat import ChatTemplate
from data.codecs.messages import ASSISTANT
from data.codecs.tokenizers import Tokenizer


def missing_opening(
    tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[str], Sequence[str]]:
    """Return the tokens that open a conversation and that the template does not write itself, and
    notes for the user.

    Our commands put these tokens before what a template writes.
    """
    opening = [tokenizer.backend.id_to_token(int(one)) for one in tokenizer.conversation_opening]
    if not opening:
        return [], ()
    asked = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
    written = []
    for piece in template.conversation(asked):
        if not piece.is_special or piece.text not in opening:
            break
        written.append(piece.text)
    missing = [token for token in opening[: len(opening) - len(written)] if token is not None]
    if missing + written != opening:
        return [], [f"the chat template begins with {' '.join(written)}, which is left as it is"]
    return missing, ()
