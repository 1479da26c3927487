"""Renders conversations with a chat template, and encodes them as tokens with a loss mask.

A conversation is a list of messages, each with a `role` and a `content`. A model learns to generate
the messages with the role "assistant"; their tokens are called learned.

A template is written in Jinja, as in Hugging Face Transformers. Its variables are `messages`,
`add_generation_prompt` (whether to open the assistant's next turn), `eos_token` (the token that
separates documents), `bos_token` (the token that opens every text, or else the separator) and
`tools` (the functions that the assistant may call, or none). A message may also have `tool_calls`.

Only the template can write special tokens. Their text inside a message or a tool is encoded as
plain text.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.codecs.tokenizers import SEPARATOR, Tokenizer

Messages = Sequence[Mapping[str, Any]]
"""Messages of JSON values. All have a `role` and a `content`, which are texts."""

Tools = Sequence[Mapping[str, Any]]
"""Functions as JSON values, in the form that Hugging Face's templates read."""

ASSISTANT = "assistant"

TEMPLATE = r"""
{%- for message in messages -%}
{{ '' if loop.first else '\n\n' }}{{ message.role }}:{{ '\n' }}{{ message.content }}
{{- eos_token if message.role == 'assistant' }}
{%- endfor -%}
{{ '\n\nassistant:\n' if add_generation_prompt }}"""
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

_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)
"""What a template can raise for messages that it does not expect."""


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation: plain text or a special token.

    text: the text, or the name of the special token.
    is_learnt: whether its tokens count in the loss.
    """

    text: str
    is_special: bool
    is_learnt: bool


class ChatTemplate:
    """Renders conversations with a Jinja template, as lists of `Piece`.

    source: the template; None for `TEMPLATE`.
    specials: the special tokens that it may write.
    bos, eos: the values of `bos_token` and `eos_token`.

    Raises ValueError if the source is not valid Jinja.

    The attributes `bos` and `eos` are those values.
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
        text, environment = TEMPLATE if source is None else source, _environment()
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno} is no Jinja: {error.message}") from None
        variables = jinja2.meta.find_undeclared_variables(environment.parse(text))
        self.reads_tools = "tools" in variables
        self.reads_tool_calls = "tool_calls" in text
        self.knows_developer = "developer" in text
        # If one token is a prefix of another, the longer one matches.
        self._names = sorted(specials, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, self._names)))
        self._beginnings = {name[:end] for name in specials for end in range(1, len(name))}
        self._ends = {name[start:] for name in specials for start in range(1, len(name))}

    def __reduce__(self):
        return _template, self._arguments

    def conversation(self, messages: Messages) -> list[Piece]:
        """Return the pieces of `messages` up to the end of the assistant's last turn.

        In each assistant turn, the pieces after its opening are learned, up to the last special
        token if there is one. Raises ValueError if the template raises an error. Also raises
        ValueError if the template renders earlier messages differently when later ones are added,
        because the assistant's part can then not be found.
        """
        messages, _, mark = self._hide(messages)
        pieces: list[Piece] = []
        done = ""
        for number, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            opened = self._render(messages[:number], opening=True)
            answered = self._render(messages[: number + 1], opening=False)
            if not (opened.startswith(done) and answered.startswith(opened)):
                raise ValueError(
                    f"the template writes what stands before message {number + 1} otherwise with "
                    "it than without, so that the assistant's part can't be told"
                )
            pieces += self._split(opened[len(done) :], mark, False)
            turn = self._split(answered[len(opened) :], mark, True)
            ends = [place for place, piece in enumerate(turn) if piece.is_special]
            last = ends[-1] + 1 if ends else len(turn)
            pieces += [*turn[:last], *(replace(piece, is_learnt=False) for piece in turn[last:])]
            done = answered
        while pieces and not pieces[-1].is_learnt:
            pieces.pop()
        return pieces

    def opening(self, messages: Messages, tools: Tools | None = None) -> list[Piece]:
        """Return the pieces of `messages`, then of the opening of the assistant's next turn.

        Raises ValueError if the template raises an error.
        """
        messages, tools, mark = self._hide(messages, tools)
        return self._split(self._render(messages, tools, opening=True), mark, False)

    def _render(self, messages: Messages, tools: Tools | None = None, *, opening: bool) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=opening,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=tools,
                documents=None,
            )
        except _TEMPLATE_ERRORS as error:
            reason = re.sub(" at 0x[0-9a-f]+", "", str(error))
            raise ValueError(f"the template fails: {reason}") from None

    def _hide(
        self, messages: Messages, tools: Tools | None = None
    ) -> tuple[Messages, Tools | None, str]:
        """Insert a mark into the text of every special token in `messages` and `tools`, so that
        `_split` reads it as plain text. Return the changed messages and tools, and the mark."""
        characters = {char for text in _texts((messages, tools)) for char in text}
        mark = next(char for char in map(chr, _MARKS) if char not in characters)

        def hidden(value: Any) -> Any:
            if isinstance(value, str):
                return self._hidden_text(value, mark)
            if isinstance(value, Mapping):
                return {hidden(name): hidden(one) for name, one in value.items()}
            return [hidden(one) for one in value] if isinstance(value, list | tuple) else value

        return hidden([*messages]), None if tools is None else hidden([*tools]), mark

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


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, the names in objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield name
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


@dataclass(frozen=True)
class Encoded:
    """A conversation's token ids, int32 [tokens], and a mask of the learned ones, bool [tokens]."""

    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]


class ChatEncoder:
    """Renders conversations with the Jinja template `source`, and encodes them with `tokenizer`.

    Each conversation begins with `tokenizer.conversation_opening`. If the template writes these
    tokens too, they are not repeated. Raises ValueError if the template is not valid Jinja.

    The attribute `template` renders conversations as pieces.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | None):
        self._tokenizer, self._specials = tokenizer, tokenizer.special_tokens()
        names = {number: name for name, number in self._specials.items()}
        opening = [names[number] for number in tokenizer.opening.tolist() if number in names]
        bos, eos = "".join(opening) or tokenizer.separator, tokenizer.separator
        if (special := tokenizer.special) is not None:
            bos, eos = special.bos or "", special.eos or eos
        self.template = ChatTemplate(source, list(self._specials), bos=bos, eos=eos)

    def encode_many(self, conversations: Sequence[Messages]) -> list[Encoded]:
        """Encode each conversation up to the end of the assistant's last turn.

        If the template does not end that turn with a special token, a learned separator is
        appended.
        Raises ValueError as `ChatTemplate.conversation` does.
        """
        pieces_of_each = [self.template.conversation(one) for one in conversations]
        pairs = zip(pieces_of_each, self._encode(pieces_of_each), strict=True)
        return [
            self._closed(one) if pieces and not pieces[-1].is_special else one
            for pieces, one in pairs
        ]

    def encode_opening(self, messages: Messages) -> NDArray[np.int32]:
        """Encode a prompt: `messages` and the opening of the assistant's turn, int32 [tokens].

        Raises ValueError if the template raises an error.
        """
        return self.encode_pieces(self.template.opening(messages))

    def encode_pieces(self, pieces: Sequence[Piece]) -> NDArray[np.int32]:
        """Encode a rendered prompt, int32 [tokens]."""
        return self._encode([pieces])[0].ids

    @functools.cached_property
    def end_id(self) -> int:
        """The id of the special token that ends the assistant's turns."""
        if self._tokenizer.special is not None:
            return self._tokenizer.end_id
        asked = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
        (one,) = self.encode_many([asked])
        return int(one.ids[-1])

    def _encode(self, conversations: Sequence[Sequence[Piece]]) -> list[Encoded]:
        texts = [piece.text for one in conversations for piece in one if not piece.is_special]
        ids_of_texts = iter(self._tokenizer.encode_many(texts))
        opening = self._tokenizer.conversation_opening
        encoded = []
        for pieces in conversations:
            parts = [
                np.array([self._specials[piece.text]], np.int32)
                if piece.is_special
                else next(ids_of_texts)
                for piece in pieces
            ]
            learnt = [np.full(len(ids), p.is_learnt) for p, ids in zip(pieces, parts, strict=True)]
            while pieces and pieces[0].is_special and parts[0] in opening:
                pieces, parts, learnt = pieces[1:], parts[1:], learnt[1:]
            parts, learnt = [opening, *parts], [np.zeros(len(opening), bool), *learnt]
            encoded.append(Encoded(np.concatenate(parts), np.concatenate(learnt)))
        return encoded

    def _closed(self, one: Encoded) -> Encoded:
        ids = np.append(one.ids, np.int32(self._tokenizer.separator_id))
        return Encoded(ids, np.append(one.learnt, True))


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


class _Generation(jinja2.ext.Extension):
    """Ignores the tag `{% generation %}`, with which some templates mark the assistant's part."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an attribute of instances

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """Build the same Jinja environment as Hugging Face Transformers does for chat templates."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    return environment
