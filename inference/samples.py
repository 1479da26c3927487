"""Generates samples of a language model's text during training."""

from collections.abc import Sequence

from flax import nnx

from configs.schema.config import Config
from configs.schema.task import LanguageModeling
from inference.predictors.completion import TextCompletion
from inference.requests import Request, Sampling


def sample_completions(
    predictor: TextCompletion, module: nnx.Module, *, config: Config, prompts: Sequence[str]
) -> list[dict[str, str]]:
    """Return each `prompt`, with the `text` that `module` generates after it. For a chat model, the
    text begins with a line break, so that the answer is below the question."""
    task = config.task
    assert isinstance(task, LanguageModeling)
    sampling = Sampling(temperature=task.sample_temperature, seed=config.seed)
    requests = [
        Request(prompt, task.sample_tokens, sampling=sampling, context_shift=True)
        for prompt in prompts
    ]
    start = "\n" if config.data.source == "conversations" else ""
    return [
        {"prompt": prompt, "text": f"{start}{done.text}"}
        for prompt, done in zip(prompts, predictor.predict(module, requests), strict=True)
    ]
