"""Turns the errors of decoders into messages for people."""

import re

_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}")


def reason_of(error: Exception) -> str:
    """Return what a decoder says is wrong, on one line, without addresses in memory and paths."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    return " ".join(_OBJECT.sub("it", str(error)).split())
