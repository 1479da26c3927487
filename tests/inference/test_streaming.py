"""Texts of several prompts on standard output."""

from inference.requests import Completion
from inference.streaming import Writer, heading


def done(prompt: str, text: str) -> Completion:
    return Completion(prompt, 1, 1, text, "length")


def test_one_prompt_has_no_heading_and_several_have_one_each(capsys):
    assert heading(["only"], 0) == ""
    writer = Writer(["only"], None)
    writer.write(0, "one\ntext", done("only", "one\ntext"))
    assert capsys.readouterr().out == "one\ntext\n"


def test_texts_that_grow_together_are_written_in_turn_behind_their_headings(capsys):
    writer = Writer(["a", 'two\n"lines"', "a"], None)
    writer.write(1, "second, ", None)
    writer.write(0, "fir", None)
    assert capsys.readouterr().out == '==> "a" <==\nfir'
    writer.write(2, "third", done("a", "third"))
    writer.write(0, "st\n", done("a", "first\n"))
    writer.write(1, "whole", done("two", "second, whole"))
    assert capsys.readouterr().out == (
        'st\n\n\n==> "two\\n\\"lines\\"" <==\nsecond, whole\n\n==> "a" <==\nthird\n'
    )
