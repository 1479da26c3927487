"""Formats results as JSON. NaN and infinity become null, because JSON has neither."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any) -> str:
    """Return `value` as one line of JSON. NaN and infinity become null, also in nested values."""
    return json.dumps(with_nulls(value), allow_nan=False)


def with_nulls(value: Any) -> Any:
    """Return `value` with None in place of NaN and infinity, also in nested values."""
    if isinstance(value, Mapping):
        return {name: with_nulls(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [with_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
