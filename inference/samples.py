"""What a language model writes while it is trained."""

from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh

from configs import Config
from data.codecs import Tokenizer, for_prompts
from inference.generation import Generator
from inference.requests import Request, Sampling


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

    def of(self, module: nnx.Module) -> Sequence[tuple[str, str]]:
        """(prompt, what `module` writes after it) of each prompt; an answer below its question."""
        completions = self._generator.complete(module, self._requests)
        start = "\n" if self._is_chat else ""
        return [(done.prompt, start + done.text) for done in completions]
