"""A server's application in the process of the tests: to see what is compiled, and for models that
nobody has trained."""

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import httpx2
import jax
import jax.numpy as jnp
import numpy as np

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.serve import Serve
from data.codecs.tokenizers import Tokenizer
from inference.loading import LoadedModel
from parallel.mesh import flat_mesh
from serving.app import build_app
from serving.service import Service
from training.model_def import build_model_def
from training.restore import Restored

SECONDS = 300


class InsideServer:
    """A server that is ready to answer inputs as a whole; the programs that write texts are not
    compiled. Its limits are small; `limits` replaces some of them."""

    def __init__(self, model: LoadedModel, **limits: Any):
        self.model, self.name = model, "small"
        fields = {"slots": 2, "prefix_cache_mb": 0} | limits
        self.service = Service(model, name=self.name, limits=Serve(**fields))
        self.app = build_app(self.service, tokens=[], hosts=["inside"])
        if (engine := self.service._engine) is not None:
            self.service._warm_ups.remove(engine.warm_up)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self.service.start())
        assert self.service.is_ready

    def __enter__(self) -> "InsideServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.service.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Any) -> Any:
        """Wait for a coroutine in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def warm_up(self) -> None:
        """Compile again what a test before may have dropped from JAX's caches."""
        for warm_up in self.service._warm_ups:
            warm_up()

    def requests(self, path: str, contents: Sequence[dict[str, Any]]) -> list[tuple[int, Any]]:
        """Send requests at the same time; return the status and the JSON of each answer."""

        async def send_all() -> list[tuple[int, Any]]:
            async with self.client() as client:
                sent = [client.post(path, json={"model": self.name} | one) for one in contents]
                answers = await asyncio.gather(*sent)
            return [(answer.status_code, json.loads(answer.content)) for answer in answers]

        return self.run(send_all())

    def client(self) -> httpx2.AsyncClient:
        """Return a client whose requests go to the application without a network."""
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app), base_url="http://inside", timeout=SECONDS
        )

    def ask(self, path: str, **content: Any) -> dict[str, Any]:
        """Return the JSON answer, which must be a success."""
        ((status, answer),) = self.requests(path, [content])
        assert status == 200, answer
        return answer

    def refused(self, path: str, **content: Any) -> dict[str, Any]:
        """Return the error of a request that must have one of the client's."""
        ((status, answer),) = self.requests(path, [content])
        assert status == 400, answer
        return answer["error"]


def untrained(recipe: str, tokenizer: Tokenizer, spec: DataSpec, **fields: str) -> LoadedModel:
    """Return a model of a recipe with random weights, which are far enough from zero that its
    answers differ. fields: overrides, with `__` for the dot."""
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    config = load_config(f"configs/{recipe}.py", overrides)
    model_def = build_model_def(config, spec, flat_mesh(jax.devices()[:1]))
    params, statistics = jax.jit(model_def.graph.initialize)(jax.random.key(0))
    generator = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = 0.3 * generator.normal(size=leaf.shape)
        return jnp.asarray(np.asarray(leaf) + noise, leaf.dtype)

    params = jax.tree.map(moved, params)
    return LoadedModel(Restored(0, {}, model_def, params, statistics), tokenizer)
