"""What a model writes while it is trained."""

from flax import nnx

from configs.schema.config import Config
from inference.predictors.completion import TextCompletion
from inference.requests import Request, Sampling


def sample_completions(
    predictor: TextCompletion, module: nnx.Module, config: Config
) -> list[dict[str, str]]:
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
