"""Servers that all tests of a process share: none of them stops one, or fills it for long."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.loading import load_model
from tests.serving.chats import TEMPLATE, train_chat
from tests.serving.in_process import ThreadServer, serving_model
from tests.serving.servers import GOLDEN, SMALL, RunningServer, serving


@pytest.fixture(scope="session")
def text_server(tmp_path_factory) -> Iterator[RunningServer]:
    """A server with a character model whose context is unlimited."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(GOLDEN / "recurrence_text", log) as server:
        yield server


@pytest.fixture(scope="session")
def chat_workdir(tmp_path_factory) -> Path:
    """A model of conversations whose template reads tools."""
    folder = tmp_path_factory.mktemp("chat")
    return train_chat(folder / "chat", folder / "chat.jsonl", TEMPLATE)


@pytest.fixture(scope="session")
def chat_server(chat_workdir, tmp_path_factory) -> Iterator[RunningServer]:
    """A server with this model."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(chat_workdir, log, fields=SMALL | {"serve.slots": "1"}) as server:
        yield server


@pytest.fixture(scope="session")
def speech_server() -> Iterator[ThreadServer]:
    """A recogniser of tones that writes something: its blank is made unlikely."""
    model = load_model(GOLDEN / "recurrence_sound")
    head = model.module.head
    head.bias[...] = head.bias[...].at[-1].add(-6.0)
    head.kernel[...] = head.kernel[...] * 8
    limits = {"max_sound_seconds": 1.28, "sandbox_processes": 1, "sandbox_seconds": 60.0}
    with serving_model(model, "tones", **limits) as server:
        yield server
