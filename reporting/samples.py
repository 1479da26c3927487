"""Formats the texts that a model generates during training, for people to read."""

from collections.abc import Mapping
from typing import Any

Sample = Mapping[str, str]
"""One sample, as texts by name: `prompt` and `text` (its continuation); or `source` (if the input
is a text), `reference` (the right answer) and `hypothesis` (the model's answer)."""

ANSWERS_SHOWN = 5


def sample_text(sample: Sample) -> str:
    """Format a sample as lines of text. The last line ends with a line break."""
    if "prompt" in sample:
        return f"--- sample after {sample['prompt']!r}\n{sample['prompt']}{sample['text']}\n"
    return "".join(f"{name:12}{text}\n" for name, text in sample.items())


def first_answers(outputs: Mapping[str, Any]) -> list[Sample]:
    """Return the first `ANSWERS_SHOWN` answers of a split. outputs: from `evaluate_split`. Returns
    [] if the model does not answer in text."""
    names = [name for name in ("source", "reference", "hypothesis") if name in outputs]
    rows = zip(*(outputs[name][:ANSWERS_SHOWN] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]
