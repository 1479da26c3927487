"""Converts the values of fields to and from text on the command line."""

import ast
import re
import typing
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from configs.schema.settings import union_members


def parse_value(text: str, info: FieldInfo) -> Any:
    """Convert `text` to the type of the field that `info` declares. Does not check the range.

    The text `none` becomes None for an optional field. Tuples are `3,4` or `(3, 4)`; texts that
    contain commas need quotes. Raises ValueError if `text` is not a value of that type.
    """
    members = union_members(info.annotation)
    if type(None) in members and text.lower() == "none":
        return None
    return _parse(text, members[0])


def format_value(value: Any) -> str:
    """Return a value as text that `parse_value` can read."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def quote(text: str) -> str:
    """Return `text` in quotation marks, shortened to 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _parse(text: str, annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is tuple:
        return _parse_tuple(text, typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        annotation = type(typing.get_args(annotation)[0])
    if annotation is bool:
        return text.lower() == "true" if text.lower() in ("true", "false") else _refuse(text)
    if annotation is int:
        return int(text) if re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII) else _refuse(text)
    if annotation is float:
        return float(text)
    return text


def _parse_tuple(text: str, element: Any) -> tuple[Any, ...]:
    bracketed = f"{text[:1]}{text[-1:]}" in ("()", "[]")
    inner = (text[1:-1] if bracketed else text).strip().removesuffix(",")
    if bracketed and not inner:
        return ()
    try:
        quoted = ast.literal_eval(f"({inner},)")
    except (ValueError, SyntaxError):
        quoted = ()  # bare words: data, fsdp
    if quoted and all(isinstance(one, str) for one in quoted):
        return quoted
    return tuple(_parse(part.strip(), element) for part in inner.split(","))


def _refuse(text: str) -> typing.NoReturn:
    raise ValueError(f"not a value: {text!r}")
