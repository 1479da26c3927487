"""Errors that the user can fix."""

import pytest

from configs.errors import UsageError, blaming


def test_any_error_of_a_users_input_becomes_one_line_that_names_the_place():
    for error in (
        KeyError("colour"),
        ValueError("of two\nlines"),
        RecursionError(),
        ZeroDivisionError(),
    ):
        match = f"^a.jsonl, line 3: {type(error).__name__}"
        with pytest.raises(UsageError, match=match) as caught, blaming("a.jsonl, line 3"):
            raise error
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [UsageError("b.csv is empty"), MemoryError(), KeyboardInterrupt()]
)
def test_a_line_that_is_already_right_and_what_is_no_mistake_of_the_input_pass(error):
    with pytest.raises(type(error)) as caught, blaming("a.jsonl"):
        raise error
    assert caught.value is error
