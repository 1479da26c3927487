"""A server in a thread of the test's process, for models that no workdir has."""

import asyncio
import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from configs.schema.serve import Serve
from inference.loading import LoadedModel
from serving.app import build_app
from serving.server import Server, listen
from serving.service import Service

START_SECONDS = 300


@dataclass
class ThreadServer:
    """A server that is ready, and the service behind it."""

    service: Service
    url: str

    @property
    def model(self) -> str:
        return self.service.name

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a body; return the status, body and headers of the answer."""
        return post(self.url + path, body, headers)


@contextlib.contextmanager
def serving_model(model: LoadedModel, limits: Serve, name: str = "model") -> Iterator[ThreadServer]:
    """Serve a model on a free port until the block ends."""
    service = Service(model, name=name, limits=limits)
    app = build_app(service, tokens=(), hosts=("127.0.0.1", "localhost"))
    server, opened = Server(app, service, limits), listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([opened])))
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not service.is_ready:
            assert time.monotonic() < deadline and not service.has_failed and thread.is_alive()
            time.sleep(0.05)
        yield ThreadServer(service, f"http://127.0.0.1:{opened.getsockname()[1]}")
    finally:
        service.is_draining = True
        thread.join(timeout=60)
        assert not thread.is_alive()


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
