"""Which tests run in `make test`, and which only in `make test-full`.

A test with the mark `full` runs only in `make test-full`, as do the tests in the folders `FULL`.
"""

from collections.abc import Iterable
from typing import Any

import pytest

FULL = ("tests/full/", "tests/benchmarks/", "tests/golden/")


def a_third_of(values: Iterable[Any]) -> list[Any]:
    """Return parameters of a test: `make test` runs it for every third of the values."""
    return [
        pytest.param(value, marks=pytest.mark.full) if number % 3 else value
        for number, value in enumerate(values)
    ]


def few_of(values: Iterable[Any], *few: Any) -> list[Any]:
    """Return parameters of a test: `make test` runs it only for `few` of the values."""
    values = [*values]
    assert not {*few} - {*values}, "these are none of the values"
    return [
        value if value in few else pytest.param(value, marks=pytest.mark.full) for value in values
    ]
