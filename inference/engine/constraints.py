"""Constraints on the form of a text, enforced by masking the tokens that can't come next.

llguidance computes the masks. The whole text matches its constraint: the end token is allowed only
where the text may end. If all values that a JSON schema allows have bounded length, so have the
generated texts, because white space is bounded too (`_JSON_OPTIONS` in `grammars.py`).
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data.codecs.tokenizers import Tokenizer
from inference.engine import grammars
from inference.engine.token_bytes import TokenBytes
from inference.engine.trial_compilation import compilation_error, parser_limits
from inference.requests import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher

Kind = Literal["json_schema", "regex", "choices", "grammar"]

CONSTRAINT_FIELDS: tuple[Kind, ...] = get_args(Kind)
"""The fields of a request that constrain its text. A request has at most one of them."""

LONGEST: Mapping[Kind, int] = {
    "json_schema": 1 << 16,
    "regex": 1 << 12,
    "choices": 1 << 16,
    "grammar": 1 << 14,
}
"""Largest number of characters of a value, by kind; for `choices`, of all choices together."""

_SLICES = ("[a-z]{1,10}",)
"""Regular expressions for which llguidance precomputes masks, beside its own for JSON strings. With
this one, masks inside a word take half the time."""

MOST_GRAMMARS = 32
"""Number of compiled grammars that are kept. Each takes up to about 20 MB."""


@dataclass(frozen=True)
class Constraint:
    """A constraint that a text must match as a whole.

    kind: the name of the request's field that has the value.
    value: for "json_schema", a JSON schema (draft 2020-12) as text; for "regex", an expression in
        the syntax of Rust's regex crate; for "choices", a tuple of the possible texts; for
        "grammar", a grammar in Lark's syntax, as llguidance reads it.

    The constructor compiles the grammar on trial in another process; the first time, this takes up
    to a second. It raises `RequestError`, with `kind` as its field, for a value that is invalid,
    too large or not supported.
    """

    kind: Kind
    value: str | tuple[str, ...]

    def __post_init__(self):
        texts: Any = self.value if self.kind == "choices" else (self.value,)
        if not (isinstance(texts, tuple) and all(isinstance(text, str) for text in texts)):
            wanted = "a list of texts" if self.kind == "choices" else "a text"
            raise RequestError(self.kind, f"must be {wanted}, not {self.value!r}")
        if (length := sum(map(len, texts))) > LONGEST[self.kind]:
            most = LONGEST[self.kind]
            raise RequestError(self.kind, f"has {length} characters, and at most {most} are taken")
        try:
            "".join(texts).encode()
            error = compilation_error(self.grammar())
        except UnicodeEncodeError:
            raise RequestError(self.kind, "is not valid Unicode") from None
        except ValueError as problem:
            raise RequestError(self.kind, str(problem)) from None
        if error:
            raise RequestError(self.kind, f"can't be enforced: {grammars.reason_of(error)}")

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> "Constraint | None":
        """Return the constraint that the fields of `request` give; None if they give none.

        Raises `RequestError` if there are several constraints, or if the value is wrong.
        """
        given = [kind for kind in CONSTRAINT_FIELDS if kind in request]
        if len(given) > 1:
            raise RequestError(given[1], f"is given beside {given[0]}: give one of them")
        if not given:
            return None
        value = request[given[0]]
        return cls(given[0], tuple(value) if isinstance(value, list) else value)

    def grammar(self, characters: str | None = None) -> str:
        """Return the grammar in llguidance's notation.

        characters: the characters that a text of kind "regex" may contain; None for all. Other
            kinds ignore this argument.

        Raises ValueError as the functions of `grammars.py` do.
        """
        if isinstance(self.value, tuple):
            return grammars.choices_grammar(self.value)
        if self.kind == "regex":
            return grammars.regex_grammar(self.value, characters)
        convert = grammars.json_grammar if self.kind == "json_schema" else grammars.lark_grammar
        return convert(self.value)


class ConstraintCompiler:
    """Compiles constraints for the vocabulary of `tokenizer`. A text ends with its `end_id`.

    The `most_grammars` compiled grammars that were used last are kept. The vocabulary is prepared
    when the first constraint is compiled. Methods may be called from several threads.
    """

    def __init__(self, tokenizer: Tokenizer, *, most_grammars: int = MOST_GRAMMARS):
        self._tokenizer, self._most_grammars = tokenizer, most_grammars
        self._grammars: OrderedDict[Constraint, _Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, constraint: Constraint) -> "ConstraintState":
        """Return the state of a text under `constraint` before its first token.

        Raises `RequestError`, with the constraint's kind as its field, if no text of this
        vocabulary matches, or if texts of this vocabulary can't be constrained.
        """
        with self._lock:
            if constraint not in self._grammars:
                self._grammars[constraint] = self._compile(constraint)
            self._grammars.move_to_end(constraint)
            while len(self._grammars) > self._most_grammars:
                self._grammars.popitem(last=False)
            return ConstraintState(self._grammars[constraint])

    def _compile(self, constraint: Constraint) -> "_Grammar":
        try:
            vocabulary = self._vocabulary
        except ValueError as problem:
            raise RequestError(
                constraint.kind, f"is not possible with this model: a vocabulary {problem}"
            ) from None
        needed = "".join(constraint.value if constraint.kind == "choices" else ())
        needed += grammars.JSON_CHARACTERS if constraint.kind == "json_schema" else ""
        if missing := vocabulary.tokens.unwritable(needed):
            raise RequestError(
                constraint.kind,
                f"needs characters that this model's vocabulary has not: {' '.join(missing)}",
            )
        grammar = _Grammar(vocabulary, constraint)
        ConstraintState(grammar).mask(np.empty_like(vocabulary.writable))
        return grammar

    @functools.cached_property
    def _vocabulary(self) -> "_Vocabulary":
        return _Vocabulary(self._tokenizer)


class ConstraintState:
    """The state of a constrained text between two tokens.

    A mask takes some microseconds where many tokens are allowed, as inside a string, and some tens
    of microseconds where the next characters are fixed. Python's GIL is released meanwhile.
    """

    def __init__(self, grammar: "_Grammar"):
        self._grammar, self._vocabulary = grammar, grammar.vocabulary
        self._matcher = grammar.matcher.deep_copy()
        self._written: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Return whether the text is finished: at most the end token may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, out: NDArray[np.uint32]) -> None:
        """Write the mask of the tokens that may come next into `out`.

        out: uint32 [vocabulary / 32, rounded up], contiguous. Token t may come next if bit t % 32
            of word t // 32 is set. At least one bit is set.

        Raises `RequestError` if no token of the vocabulary may come next, or if the constraint
        becomes too complex; ValueError if `out` has another shape or dtype.
        """
        wanted = self._vocabulary.writable
        if out.dtype != wanted.dtype or out.shape != wanted.shape or not out.flags.c_contiguous:
            raise ValueError(f"the mask must be {len(wanted)} contiguous words of uint32")
        self._do(self._fill, out)

    def push(self, token: int) -> None:
        """Append a token that the mask allows; `end_id` ends the text.

        Raises `RequestError` if the token is not allowed, or if the constraint becomes too complex.
        """
        self._do(self._consume, token)
        self._written.append(token)

    def forced(self) -> list[int]:
        """Return the next tokens as far as the constraint determines them: [] if several tokens are
        possible, or if the text has ended."""
        end_id = self._vocabulary.end_id
        if self._matcher.is_stopped():
            return [end_id] if self.is_complete and self._written[-1:] != [end_id] else []
        return self._matcher.compute_ff_tokens()

    def _fill(self, out: NDArray[np.uint32]) -> bool:
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        np.bitwise_and(out, self._vocabulary.writable, out=out)
        return not self._matcher.is_error() and bool(out.any())

    def _consume(self, token: int) -> bool:
        return self._matcher.consume_token(token)

    def _do(self, step: Callable[[Any], bool], argument: Any) -> None:
        """Call `step(argument)`. If it fails, compile the grammar again and retry once.

        All texts of a grammar share one lexer, which grows with each text up to a limit. So a step
        can fail although the constraint allows it; a newly compiled grammar has an empty lexer.

        Raises `RequestError` if the second attempt fails too.
        """
        if step(argument):
            return
        self._matcher = self._grammar.renew()
        self._matcher.consume_tokens(self._written)
        if not step(argument):
            error = self._matcher.get_error()
            reason = "no token of the vocabulary may come next"
            if error and "NoExtension" not in error:
                reason = grammars.reason_of(error)
            raise RequestError(self._grammar.constraint.kind, f"can't be followed: {reason}")


class _Vocabulary:
    """The tokens of constrained texts, prepared for llguidance.

    writable: the mask of all tokens that write bytes, and of `end_id`, in the format of `packed`.
    characters: as `TokenBytes.characters` returns them.

    Raises ValueError as `TokenBytes` does.
    """

    def __init__(self, tokenizer: Tokenizer):
        from llguidance import LLTokenizer, TokenizerWrapper

        self.end_id = tokenizer.end_id
        self.tokens = TokenBytes(tokenizer)
        pieces = list(self.tokens.pieces)
        pieces[self.end_id] = b"end"
        self.writable = packed(np.array([bool(piece) for piece in pieces]))
        self.characters = self.tokens.characters()
        encode = self.tokens.encode

        class Vocabulary:  # the interface that llguidance expects
            tokens, special_token_ids = pieces, (self.end_id,)
            eos_token_id, bos_token_id = self.end_id, None

            def __call__(self, text: str) -> list[int]:
                return encode(text)

        slices = [*LLTokenizer.json_slices(), *_SLICES]
        self.tokenizer = LLTokenizer(TokenizerWrapper(Vocabulary()), slices=slices)


class _Grammar:
    """A constraint compiled for a vocabulary.

    matcher: its state before the first token. Each text gets a copy.
    """

    def __init__(self, vocabulary: _Vocabulary, constraint: Constraint):
        self.vocabulary, self.constraint = vocabulary, constraint
        self.matcher = self._compile()

    def renew(self) -> "LLMatcher":
        """Compile again, for this text and later ones. Return a copy of the new matcher."""
        self.matcher = self._compile()
        return self.matcher.deep_copy()

    def _compile(self) -> "LLMatcher":
        from llguidance import LLMatcher

        grammar = self.constraint.grammar(self.vocabulary.characters)
        tokenizer = self.vocabulary.tokenizer
        return LLMatcher(tokenizer, grammar, limits=parser_limits(), log_level=0)


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return `allowed`, bool [vocabulary], as a mask, uint32 [vocabulary / 32, rounded up]."""
    padded = np.pad(allowed, (0, -len(allowed) % 32))
    return np.packbits(padded, bitorder="little").view(np.uint32)
