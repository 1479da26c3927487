"""A folder of transformers with a chat template is served as a model of ours."""

import json

import pytest

from tests.interop.folders import make_folder
from tests.interop.foreign import write_tokenizer
from tests.interop.test_deriving import TEMPLATE
from tests.serving.servers import SMALL, serving


@pytest.mark.full
def test_a_folder_of_transformers_is_served(tmp_path):
    folder = tmp_path / "small-llama"
    make_folder(folder, "llama", vocab_size=write_tokenizer(folder, "llama3"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    fields = SMALL | {"serve.slots": "1", "serve.max_context": "64"}
    with serving(folder, tmp_path / "log", named="from", fields=fields) as server:
        assert server.model == "small-llama"
        request = {"model": "small-llama", "max_tokens": 3, "temperature": 0}
        messages = [{"role": "user", "content": "3 times"}]
        chat = server.ask("/v1/chat/completions", request | {"messages": messages})
        assert chat["choices"][0]["finish_reason"] == "length"
        assert chat["usage"]["completion_tokens"] == 3
        plain = server.ask("/v1/completions", request | {"prompt": "3 times"})
        assert plain["usage"]["prompt_tokens"] < chat["usage"]["prompt_tokens"]
        status, info = server.request("/v1/info")
        assert status == 200 and json.loads(info)["context"] == 64
