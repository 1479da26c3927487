"""Converts JSON schemas, regular expressions, lists of texts and Lark grammars to llguidance's
notation for grammars.

Functions raise ValueError for a wrong value. The message continues the name of the request's field,
for example "is nested too deeply".
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_JSON_OPTIONS: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": False,
    "lenient": False,
}
"""The only white space between the parts of JSON is one optional space after a comma or a colon. If
more were allowed, a weak model might write white space without end. If none were allowed, a good
model could not write JSON as it has learned to."""

JSON_CHARACTERS = '{}[]":,-0123456789aeflnrstu'
"""Characters that a vocabulary must have to write any JSON."""

_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS = ("items", "additionalItems", "additionalProperties", "prefixItems")
_COMBINED_SCHEMAS = ("anyOf", "oneOf", "allOf")


def json_grammar(schema: str) -> str:
    """Return the grammar of the JSON texts that `schema`, a JSON schema as text, allows.

    Raises ValueError if `schema` is not a JSON object, is nested too deeply, refers to other
    documents or has the keyword `x-guidance`. Also raises ValueError if `minProperties` exceeds the
    number of required properties by more than one: llguidance can't prevent that an additional
    property is written twice, and JSON counts both as one.
    """
    from llguidance import LLMatcher

    try:
        parsed = json.loads(schema)
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
    except (RecursionError, ValueError) as error:
        reason = str(error)
        if "recursion" in reason:
            raise ValueError("is nested too deeply") from None
        if reason.startswith("Expecting object schema"):
            reason = "it must be an object"
        raise ValueError(f"is not a JSON schema: {reason}") from None
    if "x-guidance" in parsed:
        raise ValueError("has the keyword x-guidance, which can't be set here")
    for one in _schemas_in(parsed):
        reference, required = one.get("$ref"), one.get("required")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise ValueError(
                f"has a $ref to {reference}: only references within the schema, which begin with "
                "#, are followed"
            )
        count = len(required) if isinstance(required, list) else 0
        if isinstance(least := one.get("minProperties"), int) and least > count + 1:
            raise ValueError(
                f"has minProperties {least} and {count} required properties: at most one more can "
                "be guaranteed"
            )
    return grammar


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return the text to write after `%json` in a Lark grammar, for the JSON texts that `schema`
    allows. Raises ValueError as `json_grammar` does."""
    json_grammar(json.dumps(schema))
    return json.dumps({**schema, "x-guidance": _JSON_OPTIONS})


def regex_grammar(pattern: str, characters: str | None = None) -> str:
    r"""Return the grammar of the texts that `pattern` matches as a whole.

    As in JSON schemas, \d stands for ASCII digits, and \w for ASCII letters, digits and underscore.

    characters: the characters that the text may contain; None for all.
    """
    from llguidance import regex_to_lark

    expression = f"/{regex_to_lark(pattern, 'dw')}/"
    if characters is not None:
        allowed = re.sub(r"([\\\[\]^&~/-])", r"\\\1", characters)
        expression += f" & /[{allowed}]*/"
    return lark_grammar(f"start: TEXT\nTEXT: {expression}")


def choices_grammar(choices: Sequence[str]) -> str:
    """Return the grammar that allows exactly the texts `choices`. Raises ValueError if there are no
    choices, or if one is empty."""
    if not choices or "" in choices:
        raise ValueError("must be one or more texts, none of them empty")
    return lark_grammar(f"start: TEXT\nTEXT: {' | '.join(map(json.dumps, choices))}")


def lark_grammar(grammar: str) -> str:
    """Return a grammar in Lark's syntax in llguidance's notation."""
    return json.dumps({"grammars": [{"lark_grammar": grammar}]})


def reason_of(message: str) -> str:
    """Return the reason in an error message of llguidance's compiler, shortened to one line."""
    if keywords := re.search(r"Unimplemented keys: \[(.*)\]", message):
        return f"unsupported keywords: {keywords[1]}"
    if "oneOf constraints are not supported" in message:
        return "the options of a oneOf may overlap; anyOf is supported"
    if error := re.search("^error: (.+)", message, re.MULTILINE):
        return error[1]  # an error in a regular expression
    line = message.partition("\n")[0].rpartition("(in regex): ")[2]
    return line if len(line) < 200 else f"{line[:200]}..."


def _schemas_in(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield `schema` and all schemas nested in it."""
    rest: list[Any] = [schema]
    while rest:
        one = rest.pop()
        if isinstance(one, list):
            rest += one
        elif isinstance(one, dict):
            yield one
            rest += (one[key] for key in (*_SCHEMAS, *_COMBINED_SCHEMAS) if key in one)
            for key in _NAMED_SCHEMAS:
                if isinstance(named := one.get(key), dict):
                    rest += named.values()
