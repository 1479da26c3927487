"""What a model writes while it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from configs.schema.config import Config
from data.codecs.chat import for_prompts
from data.codecs.tokenizers import Tokenizer
from inference.generation import Generator
from inference.requests import Request, Sampling

Sample = dict[str, str]
"""Texts by name: `prompt`, and `text` that goes on after it; or `source`, if that is a text,
`reference`, the right answer, and `hypothesis`, the model's."""

ANSWERS_SHOWN = 5


def sample_text(sample: Sample) -> str:
    """As a person reads it, with the line's end."""
    if "prompt" in sample:
        return f"--- sample after {sample['prompt']!r}\n{sample['prompt']}{sample['text']}\n"
    return "".join(f"{name:12}{text}\n" for name, text in sample.items())


def first_answers(outputs: Mapping[str, Any]) -> list[Sample]:
    """Of what `answer_split` gives of a split, the first ones; [] where a model has no answers."""
    names = [name for name in ("source", "reference", "hypothesis") if name in outputs]
    rows = zip(*(outputs[name][:ANSWERS_SHOWN] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


class Samples:
    """Texts after the prompts of a configuration's task; the compiled generator is kept."""

    def __init__(self, config: Config, tokenizer: Tokenizer, mesh: Mesh):
        task = config.task
        self._is_chat = config.data.source == "conversations"
        self._generator = Generator(
            for_prompts(tokenizer, config.data),
            context=config.data.sequence_length,
            mesh=mesh,
            rules=config.mesh.rules.model_dump(),
        )
        sampling = Sampling(temperature=task.sample_temperature, seed=config.seed)
        self._requests = [
            Request(prompt, task.sample_tokens, sampling=sampling) for prompt in task.sample_prompts
        ]

    def of(self, module: nnx.Module) -> Sequence[Sample]:
        """Each prompt, and what `module` writes after it; an answer below its question."""
        completions = self._generator.complete(module, self._requests)
        start = "\n" if self._is_chat else ""
        return [{"prompt": done.prompt, "text": f"{start}{done.text}"} for done in completions]
