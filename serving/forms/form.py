"""The base classes of request bodies, and how a body is parsed and checked."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import pydantic
import pydantic_core

from configs.schema.serve import Serve
from serving.errors import ApiError, invalid

REQUEST_SETTINGS = pydantic.ConfigDict(
    strict=True, frozen=True, extra="forbid", allow_inf_nan=False
)


MOST_PARAMETERS = 200
"""Maximum number of members of a body, or of an object in it: to report an error for each of
thousands takes long."""


def _end_lists_at_first_error(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _end_lists_at_first_error(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _end_lists_at_first_error(part)


class Part(pydantic.BaseModel):
    """Base class of bodies and of the objects in them. Types are strict; unknown fields are
    errors."""

    model_config = REQUEST_SETTINGS

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > MOST_PARAMETERS:
            raise ValueError(f"have at most {MOST_PARAMETERS} members, not {len(values)}")
        return values

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> Any:
        """Return pydantic's schema, changed so that the validation of a list stops at its first
        invalid element. Otherwise a long list would take seconds, with an error for each
        element."""
        schema = handler(source)
        _end_lists_at_first_error(schema)
        return schema


class Form(Part):
    """Base class of the bodies of requests.

    ignored: parameters that are accepted and have no effect; a subclass adds its own to these.
    refused: parameters of OpenAI that are not supported, with the reason; null and the values in
    `harmless` are accepted and have no effect. Every parameter that OpenAI documents is a field, or
    is in one of these.
    """

    ignored: ClassVar[frozenset[str]] = frozenset(("user", "metadata", "store"))
    refused: ClassVar[Mapping[str, str]] = {}
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str

    def check(self, limits: Serve) -> None:
        """Raise `ApiError` for what exceeds the server's limits."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse and check a JSON body. Raises `ApiError` that names the wrong parameter."""
        return cls.of(parsed(body))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Check the parameters of a request. A value of None is the same as leaving the parameter
        out."""
        if len(values) > MOST_PARAMETERS:
            raise invalid(f"the body has {len(values)} parameters, and there are not so many")
        given = {name: value for name, value in values.items() if value is not None}
        for name, reason in cls.refused.items():
            if name in given and given[name] not in cls.harmless.get(name, ()):
                raise invalid(f"{name} is not supported: {reason}", name, "unsupported_parameter")
        dropped = cls.ignored | cls.refused.keys()
        given = {name: value for name, value in given.items() if name not in dropped}
        try:
            return cls.model_validate(given)
        except pydantic.ValidationError as error:
            raise invalid_field(error, cls.model_fields) from None


def text_of(content: str | Sequence[dict[str, Any]], param: str) -> str:
    """Return the text of a message: a string, or parts of type `text`, which are joined. Raises
    `ApiError` for a part of another type. param: the name of the content in the error."""
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise invalid(f"{param} must consist of texts: this model reads no others", param)
    return "".join(part["text"] for part in content)


def numbers(value: Any) -> Any:
    """Return a value unchanged. Raises ValueError for the first value of a mapping that is not a
    number."""
    if isinstance(value, dict):
        for name, number in value.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"should have a number for {name[:100]!r}")
    return value


def parsed(body: bytes) -> dict[str, Any]:
    """Parse a JSON object. If a key is given twice, its last value counts, as in `json.loads`.
    Numbers such as 1.0 and 1e3 become int.

    Raises `ApiError` for anything else, and for NaN and infinities.
    """
    if not body.strip():
        raise invalid("the body is empty: send a JSON object", code="invalid_json")
    try:
        values = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return _with_whole_numbers(values) if _WHOLE.search(body) else values


_WHOLE = re.compile(rb"[0-9](\.0+|[eE]\+?[0-9]+)\s*[,\]}]")
"""Finds numbers like 1.0 and 1e3."""


def _with_whole_numbers(value: Any) -> Any:
    """Return a JSON value in which floats with a whole value are `int`, up to 2^53: in JSON, 1 and
    1.0 are the same number, and some languages always write the latter."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_whole_numbers(one) for name, one in value.items()}
    return value


def invalid_field(error: pydantic.ValidationError, names: Iterable[str]) -> ApiError:
    """Return the error for the first invalid field. names: the known parameters, for a hint."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = _place(problem) or None
    if problem["type"] == "extra_forbidden":
        place = place or ""
        near = [] if "." in place else difflib.get_close_matches(place[:100], list(names), n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        return invalid(f"unknown parameter {place[:100]!r}{hint}", place[:100], "unknown_parameter")
    if problem["type"] == "missing":
        return invalid(f"{place} is missing", place, "missing_required_parameter")
    message = problem["msg"].removeprefix("Value error, ")
    message = re.sub(r"^(Input|String|List|Dictionary) ", "", message).removeprefix("should ")
    return invalid(f"{place}: should {message}" if place else message, place, "invalid_value")


def _place(problem: Mapping[str, Any]) -> str:
    """Return the path of a problem, such as `messages.0.content`, without the types that pydantic
    tried."""
    *outer, last = problem["loc"] or ("",)
    parts = [*filter(_is_name, outer)]
    if _is_name(last) or problem["type"] == "extra_forbidden":
        parts.append(last)
    return ".".join(map(str, parts))


def _is_name(part: str | int) -> bool:
    if isinstance(part, int):
        return True
    return part.isidentifier() and part.islower() and part not in ("str", "int", "float", "bool")
