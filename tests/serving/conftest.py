"""Servers that the tests of a module share."""

from collections.abc import Iterator

import pytest

from tests.serving.servers import GOLDEN, RunningServer, serving


@pytest.fixture(scope="module")
def text_server(tmp_path_factory) -> Iterator[RunningServer]:
    """A server with a character model whose context is unlimited."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(GOLDEN / "recurrence_text", log) as server:
        yield server
