"""Calls of tools are found in texts, whole or in pieces of any length; all else stays text."""

import json

import pytest

from serving.tool_calls import ToolCall, ToolCallReader

ONE = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call> ✓"}}\n</tool_call>'
TWO = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
CALLS = [("f", {"a": "</tool_call> ✓"}), ("g", {})]


def read(text: str, size: int, **options) -> tuple[str, list[tuple[str, dict]], list]:
    """Return the text and the calls that are found where `size` characters come at a time."""
    reader, found = ToolCallReader(**options), []
    for start in range(0, len(text), size):
        found += reader.read(text[start : start + size])
    before_end = [*found]
    found += reader.read("", is_end=True)
    calls = [one for one in found if isinstance(one, ToolCall)]
    assert len({call.id for call in calls}) == len(calls)
    content = "".join(one for one in found if isinstance(one, str))
    return content, [(one.name, json.loads(one.arguments)) for one in calls], before_end


@pytest.mark.parametrize("size", [1, 3, 67, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"Let me see.\n{ONE}", "Let me see.", CALLS[:1]),
        (f"\n{ONE}\n{TWO}\n", "", CALLS),
        (f"{TWO}\n\nSo it\n is.", "So it\n is.", CALLS[1:]),
        ("a < b <tool_cal> <tool", "a < b <tool_cal> <tool", []),
        (f"<tool_call>no{TWO}", "<tool_call>no", CALLS[1:]),
        ('<tool_call>{"name": 1}</tool_call> x', '<tool_call>{"name": 1}</tool_call> x', []),
        ('<tool_call>{"name": "f", "arguments": {"a": NaN}}', None, []),
        ('<tool_call>{"name": "g"}', "", CALLS[1:]),  # the text ended instead
        ('<tool_call>{"name": "g"}\n</tool', "", CALLS[1:]),
        ("<tool_call>" + 5000 * "[", None, []),
        ("", "", []),
        (" \n", " \n", []),
    ],
)
def test_calls_are_taken_out_of_the_text(text, content, calls, size):
    assert read(text, size)[:2] == (text if content is None else content, calls)


def test_nothing_of_a_call_is_passed_on_as_text_before_it_is_certain():
    text = f"Well, {ONE}"
    for end in range(text.index("}}")):
        sent, calls, before = read(text[:end], 2)
        assert (sent, calls) == (text[:end], [])
        assert "Well,".startswith("".join(before))


def test_what_follows_the_last_call_that_is_wanted_is_dropped():
    assert read(f"a {ONE} b {TWO} c", 4, most_calls=1)[:2] == ("a", CALLS[:1])


def test_half_a_surrogate_pair_in_a_call_can_be_sent():
    text = r'<tool_call>{"name": "f\udc00", "arguments": {"a": "\ud800"}}</tool_call>'
    (call,) = ToolCallReader().read(text, is_end=True)
    assert (call.name, call.arguments) == ("f?", '{"a": "?"}')
