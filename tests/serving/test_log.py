"""What the log has of each request; the metrics are those that docs/serving.md names."""

import json
import re

import pytest

from tests.docs.documents import read
from tests.serving.servers import GOLDEN, serving

PROMPT = "0 times 0 "
FORGED = '"}\n{"event": "forged"}\r\n\x1b[31m\x7f\x85\x9b\u2028'


@pytest.fixture(scope="module")
def chatty_server(tmp_path_factory):
    """A server whose log has prompts and answers."""
    log = tmp_path_factory.mktemp("chatty") / "log"
    fields = {"serve.log_prompts": "true", "serve.slots": "1", "serve.prefix_cache_mb": "1"}
    with serving(GOLDEN / "recurrence_text", log, fields=fields) as server:
        yield server


def test_prompts_and_answers_are_logged_if_asked_for(chatty_server):
    fields = {"model": chatty_server.model, "prompt": PROMPT, "max_tokens": 4, "seed": 1}
    (choice,) = chatty_server.ask("/v1/completions", fields)["choices"]
    chatty_server.request("/v1/completions", fields | {"stream": True})
    lines = chatty_server.lines()
    answers = [line["content"] for line in lines if line["event"] == "answer"]
    assert answers == [[choice["text"]]] * 2
    prompts = [line for line in lines if line["event"] == "prompt"]
    assert prompts[0]["content"] == fields and len(prompts) == 2
    logged = [line for line in lines if line["event"] == "request"]
    assert logged[0]["request_id"] == prompts[0]["request_id"]


def test_no_request_can_write_lines_of_its_own(chatty_server):
    fields = {"model": chatty_server.model, "prompt": FORGED, "max_tokens": 1}
    chatty_server.request("/v1/completions", fields)
    lines = chatty_server.log.read_text().removesuffix("\n").split("\n")
    assert all(line.isprintable() and json.loads(line)["event"] != "forged" for line in lines)


def test_the_page_names_every_metric_and_no_other(chatty_server):
    status, body = chatty_server.request("/metrics")
    families = set(re.findall(r"^# TYPE (\w+)", body.decode(), re.MULTILINE))
    named = set(re.findall(r"triform_[a-z_]+", read("docs/serving.md")))
    assert status == 200 and "triform_num_requests_waiting" in named
    assert named == {name for name in families if not name.endswith("_created")}
