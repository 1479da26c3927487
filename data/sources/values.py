"""Reads the values of rows as texts and labels. Errors name the row."""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from configs.errors import UsageError

_LISTED, _LISTED_CHARACTERS = 12, 40  # the most names listed in messages, and characters of each
_DEEPEST = 8  # levels of nested fields


def text_of(
    where: str, row: Mapping[str, Any], field: str, invalid_utf8: str, needed: str = ""
) -> str:
    """Return the text in `field` of `row`; the field must exist.

    where: the row's location, for errors.
    invalid_utf8: `data.invalid_utf8`.
    needed: the noun for the text, if it may not be empty.

    Raises UsageError if its value is not text.
    """
    text = row[field]
    if isinstance(text, bytes):
        text = decode(text, invalid_utf8, where)
    if text is None:
        told = no_text(where, field, "null", ())
        raise UsageError(f"{told}: give it a text, or leave it out")
    if not isinstance(text, str):
        texts = [name for name, value in leaves(row) if isinstance(value, str | bytes)]
        raise no_text(where, field, kind_of(text), texts)
    if needed and not text.strip():
        raise UsageError(f"{where}: field {field!r} is empty: every row needs a {needed}")
    return whole_text(text, invalid_utf8, where, field)


def label_of(where: str, row: Mapping[str, Any], field: str, invalid_utf8: str) -> str:
    """Return the label in `field` of `row` as text; the parameters are those of `text_of`.

    Labels that are integers or booleans become text as in JSON, and 1.0 is the integer 1. Raises
    UsageError if the label is empty or of another type.
    """
    value = row[field]
    if isinstance(value, bytes):
        value = decode(value, invalid_utf8, f"{where}: field {field!r}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or _is_whole(value):
        return str(int(value))
    if isinstance(value, float) and value != value:
        raise UsageError(f"{where}: field {field!r} is missing (NaN): every row needs a label")
    if not isinstance(value, str):
        what = "every row needs one" if value is None else "write it as one of these"
        raise UsageError(
            f"{where}: field {field!r} holds {kind_of(value)}, not a label, which is text, an "
            f"integer, or true or false: {what}"
        )
    if not value.strip():
        raise UsageError(f"{where}: field {field!r} is empty: every row needs a label")
    return whole_text(value, invalid_utf8, where, field).strip()


def leaves(record: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a record and its value; objects are replaced by their nested fields."""
    for name, value in record.items():
        if isinstance(value, dict) and value and outer.count(".") < _DEEPEST:
            yield from leaves(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def listed_names(names: Iterable[str]) -> str:
    """Return names for a message, without most of those that are long or many."""
    names = [" ".join(name.split()) or repr(name) for name in names]
    listed = [
        name if len(name) <= _LISTED_CHARACTERS else f"{name[:_LISTED_CHARACTERS]}..."
        for name in names[:_LISTED]
    ]
    if len(names) > _LISTED:
        listed.append(f"{len(names) - _LISTED} more")
    return ", ".join(listed) or "none"


def no_text(where: str, field: str, kind: str, texts: Iterable[str]) -> UsageError:
    """Return the error for a field that does not contain text.

    where: the location of the row.
    kind: the type of the field's value.
    texts: the names of the fields that contain text.
    """
    texts = [*texts]
    others = f": text is in {listed_names(texts)}" if texts and kind != "null" else ""
    return UsageError(f"{where}: field {field!r} holds {kind}, not text{others}")


def decode(content: bytes, invalid_utf8: str, where: str) -> str:
    """Decode UTF-8 text.

    where: its location, for errors.
    invalid_utf8: `data.invalid_utf8`.
    """
    try:
        return content.decode("utf-8", {"error": "strict", "replace": "replace"}[invalid_utf8])
    except UnicodeDecodeError as error:
        what = f"{where} is not UTF-8 text: byte 0x{content[error.start]:02x}"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"{what}. Convert the file, from UTF-16") from None
        raise UsageError(f"{what}. Convert the file, or set data.invalid_utf8=replace") from None


def whole_text(text: str, invalid_utf8: str, where: str, field: str) -> str:
    """Return `text` without unpaired surrogates, which JSON allows.

    invalid_utf8: "error" to raise UsageError for an unpaired surrogate, or "replace" to replace it
        by U+FFFD.
    where, field: its location, for the error.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if invalid_utf8 == "error":
            half = ascii(text[error.start])[1:-1]
            raise UsageError(
                f"{where}: field {field!r} spells half a character, {half}: mend it, or set "
                "data.invalid_utf8=replace"
            ) from None
        return decode(text.encode("utf-8", "surrogatepass"), invalid_utf8, where)
    return text


def kind_of(value: Any) -> str:
    """Return the name of a value's type: that of JSON, or of Python for other types, such as
    dates."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__.lower()}")


def _is_whole(value: Any) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, float) and value.is_integer()
