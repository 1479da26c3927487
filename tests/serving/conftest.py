"""Servers that all tests of a process share: none of them stops one, or fills it for long."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.chats import TEMPLATE, train_chat
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
def speech_server(tmp_path_factory) -> Iterator[RunningServer]:
    """A server that transcribes recordings."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(GOLDEN / "recurrence_sound", log) as server:
        yield server
