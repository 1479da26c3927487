"""What a model writes while it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from configs.schema.config import Config
from inference.predictors.completion import TextCompletion
from inference.requests import Request, Sampling

Sample = dict[str, str]
"""Texts by name: `prompt`, and `text` that goes on after it; or `source`, if that is a text,
`reference`, the right answer, and `hypothesis`, the model's."""

ANSWERS_SHOWN = 5


def sample_text(sample: Sample) -> str:
    """Return a sample as a person reads it, with the line's end."""
    if "prompt" in sample:
        return f"--- sample after {sample['prompt']!r}\n{sample['prompt']}{sample['text']}\n"
    return "".join(f"{name:12}{text}\n" for name, text in sample.items())


def first_answers(outputs: Mapping[str, Any]) -> list[Sample]:
    """Return the first written answers among the outputs of `evaluate_split`; [] where a model
    writes none."""
    names = [name for name in ("source", "reference", "hypothesis") if name in outputs]
    rows = zip(*(outputs[name][:ANSWERS_SHOWN] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def sample_completions(
    predictor: TextCompletion, module: nnx.Module, config: Config
) -> Sequence[Sample]:
    """Return each prompt of the configuration's task, and what `module` writes after it; an answer
    of a conversation stands below its question."""
    task = config.task
    sampling = Sampling(temperature=task.sample_temperature, seed=config.seed)
    requests = [
        Request(prompt, task.sample_tokens, sampling=sampling) for prompt in task.sample_prompts
    ]
    start = "\n" if config.data.source == "conversations" else ""
    return [
        {"prompt": done.prompt, "text": f"{start}{done.text}"}
        for done in predictor.predict(module, requests)
    ]
