"""Samples of what a model writes while it is trained, for people to read."""

from collections.abc import Mapping
from typing import Any

Sample = Mapping[str, str]
"""Texts by name: `prompt`, and `text` that goes on after it; or `source`, if that is a text,
`reference`, the right answer, and `hypothesis`, the model's."""

ANSWERS_SHOWN = 5


def sample_text(sample: Sample) -> str:
    """Format a sample as a person reads it, with the line's end."""
    if "prompt" in sample:
        return f"--- sample after {sample['prompt']!r}\n{sample['prompt']}{sample['text']}\n"
    return "".join(f"{name:12}{text}\n" for name, text in sample.items())


def first_answers(outputs: Mapping[str, Any]) -> list[Sample]:
    """Return the first answers among the outputs of a split; [] if a model has no answers."""
    names = [name for name in ("source", "reference", "hypothesis") if name in outputs]
    rows = zip(*(outputs[name][:ANSWERS_SHOWN] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]
