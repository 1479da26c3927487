"""A server in a thread of the test's process: to see what is compiled, and for models that nobody
has trained."""

import asyncio
import contextlib
import gc
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx2
import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.serve import Serve
from data.codecs.tokenizers import Tokenizer
from inference.loading import LoadedModel
from parallel.mesh import flat_mesh
from serving.app import build_app
from serving.server import Server, listen
from serving.service import Service
from tests.serving.servers import Served
from training.model_def import build_model_def
from training.restore import Restored

SECONDS = 300


class ThreadServer(Served):
    """One in a thread, and the service behind it."""

    def __init__(self, service: Service, url: str):
        self.service, self.url, self.model = service, url, service.name

    def warm_up(self) -> None:
        """Compile again what a test before may have dropped from JAX's caches."""
        for warm_up in self.service._warm_ups:
            warm_up()

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=SECONDS)

    def requests(self, path: str, contents: Sequence[dict[str, Any]]) -> list[tuple[int, Any]]:
        """Send requests at the same time; return the status and the JSON of each answer."""

        async def send_all() -> list[tuple[int, Any]]:
            async with self.client() as client:
                sent = [client.post(path, json={"model": self.model} | one) for one in contents]
                answers = await asyncio.gather(*sent)
            return [(answer.status_code, json.loads(answer.content)) for answer in answers]

        return asyncio.run(send_all())

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

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a body; return the status, body and headers of the answer."""
        return post(self.url + path, body, headers)


@contextlib.contextmanager
def serving_model(
    model: LoadedModel, name: str = "model", *, writes_texts: bool = True, **limits: Any
) -> Iterator[ThreadServer]:
    """Serve a model on a free port until the block ends.

    writes_texts: whether the programs that write texts are compiled. limits: fields of
    `config.serve`, beside slots and a cache that are small.
    """
    fields = Serve(**{"slots": 2, "prefix_cache_mb": 0} | limits)
    service = Service(model, name=name, limits=fields)
    if not writes_texts and (engine := service._engine) is not None:
        service._warm_ups.remove(engine.warm_up)
    app = build_app(service, tokens=(), hosts=("127.0.0.1", "localhost"))
    server, opened = Server(app, service, fields), listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([opened])))
    thread.start()
    try:
        deadline = time.monotonic() + SECONDS
        while not service.is_ready:
            assert time.monotonic() < deadline and not service.has_failed and thread.is_alive()
            time.sleep(0.05)
        gc.unfreeze()  # A service freezes what there is; programs of other tests are among it.
        yield ThreadServer(service, f"http://127.0.0.1:{opened.getsockname()[1]}")
    finally:
        service.is_draining = True
        thread.join(timeout=60)
        assert not thread.is_alive()


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


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a body; return the status, body and headers of the answer."""
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def multipart(
    parts: Sequence[tuple[str, str | bytes]], boundary: str = "x-boundary-x"
) -> tuple[bytes, dict[str, str]]:
    """Return the body of a form, and its headers. A part with bytes is a file."""
    body = b""
    for name, content in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(content, bytes):
            body += b'; filename="../../etc/passwd"\r\nContent-Type: application/octet-stream'
        else:
            content = content.encode()
        body += b"\r\n\r\n" + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def send_file(url: str, model: str, content: bytes, **fields: str) -> tuple[int, dict]:
    """Send a file; return the status and the JSON answer."""
    parts: list[tuple[str, str | bytes]] = [("model", model), *fields.items(), ("file", content)]
    status, answer, _ = post(url, *multipart(parts))
    return status, json.loads(answer)


def tone(seconds: float, hertz: float = 770.0, form: str = "WAV", rate: int = 8000) -> bytes:
    """Return a recording of a tone that falls and rises."""
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * hertz * times) * np.cos(7 * times)
    file = io.BytesIO()
    soundfile.write(file, wave.astype(np.float32), rate, format=form)
    return file.getvalue()
