"""Renders conversations with a chat template, and encodes them as tokens with a loss mask.

A conversation is a list of messages, each with a `role` and a `content`. A model learns to generate
the messages with the role "assistant"; their tokens are called learned.

A template is written in Jinja, as in Hugging Face Transformers. Its variables are `messages`,
`add_generation_prompt` (whether to open the assistant's next turn), `eos_token` (the token that
separates documents), `bos_token` (the token that opens every text, or else the separator), `tools`
(the functions that the assistant may call, or none), and further fields of a conversation that it
reads. A message may have more fields, such as `tool_calls`, all of which the template must read.

Only the template can write special tokens. Their text inside a message or a tool is encoded as
plain text.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.codecs.messages import (
    ASSISTANT,
    REASONING,
    Messages,
    NotedMessage,
    is_absent,
    is_answer,
    is_learnt,
    is_usual,
    usual_role,
)
from data.codecs.rendered import Piece, PieceEncoder, PieceTokens
from data.codecs.templates import JinjaTemplate
from data.codecs.tokenizers import SEPARATOR, Tokenizer

Tools = Sequence[Mapping[str, Any]]
"""Functions as JSON values, in the form that Hugging Face's templates read."""

_NEEDED = frozenset({"tools", "functions", "documents"})
_WRITTEN = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token"})
_NONE: Mapping[str, Any] = MappingProxyType({})

TEMPLATE = r"""
{%- for message in messages -%}
{{ '' if loop.first else '\n\n' }}{{ message.role }}:{{ '\n' }}{{ message.content }}
{{- eos_token if message.role == 'assistant' }}
{%- endfor -%}
{{ '\n\n' if add_generation_prompt and messages }}{{ 'assistant:\n' if add_generation_prompt }}"""
"""The default template. It writes the role and a colon on one line, the message below, and an empty
line between messages. The assistant's turns end with the separator. All else is plain text, which
every vocabulary can encode."""

_MARKS = range(0xE000, 0xF900)  # Unicode's private use area

_WORDS_OF_TEMPLATES = frozenset(
    re.findall(
        r"\w+",
        "role content name type function parameters description arguments properties required "
        "items enum id tool_calls tool_call_id system developer user assistant tool object string "
        "number integer boolean array null",
    )
)
"""Words that templates compare with; they stay as they are, also as a part of a special token."""


class ChatTemplate:
    """Renders conversations with a Jinja template, as lists of `Piece`.

    source: the template; None for `TEMPLATE`.
    specials: the special tokens that it may write.
    bos, eos: the values of `bos_token` and `eos_token`.

    Raises ValueError if the source is not valid Jinja.

    The attributes `bos` and `eos` are those values.
    variables: the names of the variables that it reads.
    writes_date: whether it asks for the time.
    reads_tools, reads_tool_calls: whether it reads the tools, and the calls in messages.
    knows_developer: whether it knows the role "developer".

    It can be pickled; a process compiles a source once.
    """

    def __init__(
        self,
        source: str | None,
        specials: Sequence[str] = (SEPARATOR,),
        *,
        bos: str = SEPARATOR,
        eos: str = SEPARATOR,
    ):
        self.bos, self.eos = bos, eos
        self._arguments = (source, tuple(specials), bos, eos)
        text = TEMPLATE if source is None else source
        self._template = JinjaTemplate(text)
        self.variables, self.writes_date = self._template.variables, self._template.writes_date
        self.reads_tools = "tools" in self.variables
        self.reads_tool_calls = "tool_calls" in text
        self.knows_developer = "developer" in text
        # If one token is a prefix of another, the longer one matches.
        self._names = sorted(specials, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, self._names)))
        self._beginnings = {name[:end] for name in specials for end in range(1, len(name))}
        self._ends = {name[start:] for name in specials for start in range(1, len(name))}

    def __reduce__(self):
        return _template, self._arguments

    def conversation(
        self, messages: Messages, fields: Mapping[str, Any] = _NONE, *, first: int = 1
    ) -> list[Piece]:
        """Return the pieces of `messages` up to the end of the assistant's last learned turn.

        fields: further fields of the conversation, such as `tools`. The template gets those that
        are among its `variables`.
        first: the number of the first message in errors.

        In each turn of which `is_learnt` is true, the pieces after its opening are learned, up to
        the last special token if there is one. Raises ValueError if the template raises an error,
        or does not read a field of a message, or tools. Also raises ValueError if the template
        renders earlier messages differently when later ones are added, because the assistant's part
        can then not be found.
        """
        given = self._given(fields)
        learnt = [is_learnt(message) for message in messages]
        while learnt and not learnt[-1]:
            learnt.pop()
        answers = [number for number in range(len(learnt)) if is_answer(messages[number])]
        messages = [self._with_usual_names(message) for message in messages[: len(learnt)]]
        messages, given, mark = self._hide(messages, given)
        pieces: list[Piece] = []
        done = ""
        for number in answers:
            opened = self._render(messages[:number], given, opening=True)
            answered = self._render(messages[: number + 1], given, opening=False)
            if not (opened.startswith(done) and answered.startswith(opened)):
                raise ValueError(
                    f"the template writes what stands before message {number + first} otherwise "
                    "with it than without, so that the assistant's part can't be told"
                )
            pieces += self._split(opened[len(done) :], mark, False)
            turn = self._split(answered[len(opened) :], mark, learnt[number])
            ends = [place for place, piece in enumerate(turn) if piece.is_special]
            last = ends[-1] + 1 if ends else len(turn)
            pieces += [*turn[:last], *(replace(piece, is_learnt=False) for piece in turn[last:])]
            done = answered
        self._refuse_unread(messages, first)
        while pieces and not pieces[-1].is_learnt:
            pieces.pop()
        return pieces

    def other_roles(self, messages: Messages) -> dict[str, str]:
        """Return the roles of `messages` that are read as another role, which is the value."""
        found = {message["role"]: usual_role(message["role"]) for message in messages}
        return {
            role: usual
            for role, usual in found.items()
            if role != usual and (usual == ASSISTANT or role not in self._template.constants)
        }

    def unknown_roles(self, messages: Messages) -> list[str]:
        """Return the roles of `messages` that are no usual ones, and that the template does not
        name."""
        roles = dict.fromkeys(message["role"] for message in messages)
        return [
            role for role in roles if not is_usual(role) and role not in self._template.constants
        ]

    def opening(self, messages: Messages, tools: Tools | None = None) -> list[Piece]:
        """Return the pieces of `messages`, then of the opening of the assistant's next turn.

        Raises ValueError if the template raises an error.
        """
        messages, given, mark = self._hide(messages, {"tools": tools})
        return self._split(self._render(messages, given, opening=True), mark, False)

    def _given(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `fields` that the template reads. Raises ValueError for a field without which
        a conversation has another meaning."""
        for name in sorted(_NEEDED - self.variables):
            if not is_absent(fields.get(name)):
                raise self._unread(name)
        return {name: fields[name] for name in fields if name in self.variables - _WRITTEN}

    def _with_usual_names(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a message with the names of its role and of its reasoning that templates know."""
        usual, role = usual_role(message["role"]), message["role"]
        if role != usual and role not in self._template.constants:
            message = {**message, "role": usual}
        if reasoning := next((message[name] for name in REASONING if message.get(name)), None):
            message = {**message, "reasoning_content": reasoning}
            message = {**message, "thinking": message.get("thinking", reasoning)}
        return message

    def _refuse_unread(self, messages: Messages, first: int) -> None:
        for number, message in enumerate(messages, first):
            if isinstance(message, NotedMessage) and (name := message.unread()):
                raise self._unread(name, f"message {number}: ")

    def _unread(self, name: str, where: str = "") -> ValueError:
        whose, advice = "", "a template that reads it"
        if self._arguments[0] is None:
            whose = "default "
            advice = "data.chat_template, one that reads it, such as the model's own"
        return ValueError(
            f"{where}the {whose}template does not read the field {name!r}, which would be lost: "
            f"remove the field, or give {advice}"
        )

    def _render(self, messages: Messages, given: Mapping[str, Any], *, opening: bool) -> str:
        variables = {
            "messages": messages,
            "add_generation_prompt": opening,
            "bos_token": self.bos,
            "eos_token": self.eos,
        }
        return self._template.render(**{"tools": None, "documents": None, **given, **variables})

    def _hide(
        self, messages: Messages, given: Mapping[str, Any]
    ) -> tuple[Messages, dict[str, Any], str]:
        """Insert a mark into the text of every special token in `messages` and in the values of
        `given`, so that `_split` reads it as plain text. Return both, changed, and the mark."""
        characters = {char for text in texts_of((messages, given)) for char in text}
        mark = next(char for char in map(chr, _MARKS) if char not in characters)

        def hidden(value: Any) -> Any:
            if isinstance(value, str):
                return self._hidden_text(value, mark)
            if isinstance(value, Mapping):
                return {hidden(name): hidden(one) for name, one in value.items()}
            return [hidden(one) for one in value] if isinstance(value, list | tuple) else value

        def hidden_values(fields: Mapping[str, Any]) -> dict[str, Any]:
            return {name: hidden(value) for name, value in fields.items()}

        shown = [
            hidden_values(message)
            if message.keys() <= {"role", "content"}
            else NotedMessage(hidden_values(message))
            for message in messages
        ]
        return shown, hidden_values(given), mark

    def _hidden_text(self, text: str, mark: str) -> str:
        """Insert the mark into special tokens in `text`. Also set it at an end of the text where
        the template could complete it to one: a key that it writes between < and >."""
        text = self._specials.sub(lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)
        bare = text.strip()
        if not bare or bare in _WORDS_OF_TEMPLATES:
            return text
        lengths = range(1, min(len(bare), len(self._names[0])) + 1)
        is_inside = len(bare) in lengths and any(bare in name for name in self._names)
        before = mark if is_inside or any(bare[:end] in self._ends for end in lengths) else ""
        after = mark if any(bare[-end:] in self._beginnings for end in lengths) else ""
        start = text.index(bare)
        return f"{text[:start]}{before}{bare}{after}{text[start + len(bare) :]}"

    def _split(self, text: str, mark: str, is_learnt: bool) -> list[Piece]:
        pieces, start = [], 0
        for found in (*self._specials.finditer(text), None):
            stop = len(text) if found is None else found.start()
            if start < stop:
                pieces.append(Piece(text[start:stop].replace(mark, ""), False, is_learnt))
            if found is not None:
                pieces.append(Piece(found[0], True, is_learnt))
                start = found.end()
        return pieces


@functools.lru_cache(maxsize=8)
def _template(source: str | None, specials: Sequence[str], bos: str, eos: str) -> ChatTemplate:
    return ChatTemplate(source, specials, bos=bos, eos=eos)


def render_opening(
    template: ChatTemplate, messages: Messages, tools: Tools | None = None
) -> list[tuple[str, bool]]:
    """Return `text` and `is_special` of the pieces of a prompt, `ChatTemplate.opening`.

    This is for another process, which can be ended if a template takes too long; so the result is
    of JSON values.
    """
    return [(piece.text, piece.is_special) for piece in template.opening(messages, tools)]


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, the names in objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield name
            yield from texts_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_of(one)


@dataclass(frozen=True)
class Encoded:
    """A conversation's token ids, int32 [tokens], and a mask of the learned ones, bool [tokens].

    differs: whether the prompt before a learned turn, encoded by itself, has other tokens.
    """

    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    differs: bool = False


class ChatEncoder:
    """Renders conversations with the Jinja template `source`, and encodes them with `tokenizer`.

    Each conversation begins with `tokenizer.conversation_opening`. If the template writes these
    tokens too, they are not repeated. Raises ValueError if the template is not valid Jinja.

    The attribute `template` renders conversations as pieces.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | None):
        self._tokenizer, self._specials = tokenizer, tokenizer.special_tokens()
        self._encoder = PieceEncoder(tokenizer)
        names = {number: name for name, number in self._specials.items()}
        opening = [names[number] for number in tokenizer.opening.tolist() if number in names]
        bos, eos = "".join(opening) or tokenizer.separator, tokenizer.separator
        if (special := tokenizer.special) is not None:
            bos, eos = special.bos or "", special.eos or eos
        self.template = ChatTemplate(source, list(self._specials), bos=bos, eos=eos)

    def encode_many(self, conversations: Sequence[Messages]) -> list[Encoded]:
        """Encode each conversation up to the end of the assistant's last turn, as `encode_rendered`
        does. Raises ValueError as `ChatTemplate.conversation` does."""
        return self.encode_rendered([self.template.conversation(one) for one in conversations])

    def encode_rendered(self, conversations: Sequence[Sequence[Piece]]) -> list[Encoded]:
        """Encode conversations that `template` has rendered.

        A token is learned if its first character is. If the template does not end the last turn
        with a special token, a learned separator is appended.
        """
        tokens = self._encoder.encode(conversations)
        prompts = [list(_prompts(pieces)) for pieces in conversations]
        distinct = dict.fromkeys(
            tuple(pieces[start:stop])
            for pieces, of in zip(conversations, prompts, strict=True)
            for start, stop in of
        )
        ids = {
            prompt: found.ids
            for prompt, found in zip(distinct, self._encoder.encode([*distinct]), strict=True)
        }
        encoded = []
        for pieces, found, of in zip(conversations, tokens, prompts, strict=True):
            one = self._framed(pieces, found)
            if pieces and not pieces[-1].is_special:
                closed = np.append(one.ids, np.int32(self._tokenizer.separator_id))
                one = Encoded(closed, np.append(one.learnt, True))
            is_same = all(
                _goes_on(found, start, ids[tuple(pieces[start:stop])]) for start, stop in of
            )
            encoded.append(replace(one, differs=not is_same))
        return encoded

    def encode_opening(self, messages: Messages) -> NDArray[np.int32]:
        """Encode a prompt: `messages` and the opening of the assistant's turn, int32 [tokens].

        Raises ValueError if the template raises an error.
        """
        return self.encode_pieces(self.template.opening(messages))

    def encode_pieces(self, pieces: Sequence[Piece]) -> NDArray[np.int32]:
        """Encode a rendered prompt, int32 [tokens]."""
        (tokens,) = self._encoder.encode([pieces])
        return self._framed(pieces, tokens).ids

    @functools.cached_property
    def end_id(self) -> int:
        """The id of the special token that ends the assistant's turns."""
        if self._tokenizer.special is not None:
            return self._tokenizer.end_id
        asked = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
        (one,) = self.encode_many([asked])
        return int(one.ids[-1])

    def _framed(self, pieces: Sequence[Piece], tokens: PieceTokens) -> Encoded:
        """Return the tokens with the opening of a conversation before them, once."""
        opening = self._tokenizer.conversation_opening
        first = 0
        while tokens.specials.get(first) == first and tokens.ids[first] in opening:
            first += 1
        return Encoded(
            np.concatenate([opening, tokens.ids[first:]]),
            np.concatenate([np.zeros(len(opening), bool), tokens.learnt(pieces)[first:]]),
        )


def _prompts(pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """Yield the range of pieces before each learned turn, from the last special token on: no token
    before it depends on what follows. Left out are those that are only this token."""
    start = 0
    for number, piece in enumerate(pieces):
        is_begun = piece.is_learnt and number > 0 and not pieces[number - 1].is_learnt
        if is_begun and not pieces[number - 1].is_special:
            yield start, number
        if piece.is_special:
            start = number


def _goes_on(tokens: PieceTokens, start: int, prompt: NDArray[np.int32]) -> bool:
    """Return whether the tokens from piece `start` on begin with the ids `prompt`."""
    first = tokens.specials.get(start, 0)
    return np.array_equal(tokens.ids[first : first + len(prompt)], prompt)


class ChatTokenizer(Tokenizer):
    """A tokenizer for prompts to a chat model. It encodes a text as a message of the user.

    The ids include the tokens that open the conversation and the assistant's turn. `end_id` is the
    token that ends the answer. Prompt and answer are decoded as separate texts. `encoder` encodes
    whole conversations. `encode` raises `UsageError` if the template fails.
    """

    joins_prompt = False

    def __init__(self, tokenizer: Tokenizer, source: str | None):
        super().__init__(tokenizer.backend, tokenizer.special)
        self.encoder = ChatEncoder(tokenizer, source)
        self.opening, self.closing = self.opening[:0], self.closing[:0]
        self.end_id = self.encoder.end_id

    def encode(self, text: str) -> NDArray[np.int32]:
        try:
            return self.encoder.encode_opening([{"role": "user", "content": text}])
        except ValueError as error:
            raise UsageError(f"a prompt is no message of this model: {error}") from None


def for_prompts(tokenizer: Tokenizer, settings: Any) -> Tokenizer:
    """Return the tokenizer for prompts to a model that was trained with `settings`.

    settings: the configuration's `data`. If the model was trained on conversations, a prompt is
    encoded as a user's message; otherwise, as plain text.
    """
    if settings.source != "conversations":
        return tokenizer
    return ChatTokenizer(tokenizer, settings.chat_template)
