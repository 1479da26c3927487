"""`/v1/chat/completions` goes on as training showed it, in OpenAI's form, with calls of tools."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from data.codecs.chat import ChatEncoder, ChatTemplate, ChatTokenizer
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import Constraint
from inference.engine.job import Job
from inference.requests import Request, TokenLogprob
from serving.access import AccessRules
from serving.errors import ApiError
from serving.forms.chat import ChatForm
from serving.responses import ClientLeft, fast_json_response
from serving.routes.chat import ChatBody, messages_for, routes, tools_for
from serving.texts import TokenTexts, usage
from serving.tool_calls import call_grammar
from tests.serving.chats import TEMPLATE

PATH = "/v1/chat/completions"
TALK = [{"role": "user", "content": "Is 4 even?"}]
PARAMETERS = {"properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
PARAMETERS |= {"type": "object", "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOLD = [
    {"role": "system", "content": "Be brief.<|endoftext|>"},
    *TALK,
    {"role": "assistant", "tool_calls": [CALL], "content": None},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "yes"}]},
]


def ask(server, **fields):
    return server.ask(PATH, {"model": server.model, "messages": TALK, "seed": 1} | fields)


def stream(server, **fields) -> list[dict]:
    """Return the events of a streamed answer, without the last, which says that it is complete."""
    content = {"model": server.model, "messages": TALK, "seed": 1, "stream": True} | fields
    status, body = server.request(PATH, content)
    *events, last = [line for line in body.decode().split("\n\n") if line]
    assert (status, last) == (200, "data: [DONE]")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.fixture
def encoder(chat_workdir) -> ChatEncoder:
    return ChatEncoder(Tokenizer.load(chat_workdir / "tokenizer.json"), TEMPLATE)


def test_an_answer_goes_on_with_what_training_showed(chat_server, chat_workdir, encoder):
    messages = messages_for(encoder.template, ChatForm(model="", messages=TOLD).messages)
    ids = encoder.encode_opening(messages)
    assert np.count_nonzero(ids == ids[0]) == 2  # its opening, and what ends the assistant's turn
    text = Tokenizer.load(chat_workdir / "tokenizer.json").decode(ids)
    assert '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><|endoftext|>' in text
    fields = {"temperature": 0, "max_tokens": 9}
    answer = ask(chat_server, messages=TOLD, **fields)
    prompt = {"model": chat_server.model, "prompt": ids.tolist()}
    expected = chat_server.ask("/v1/completions", prompt | fields)
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": expected["choices"][0]["text"],
        "refusal": None,
    }
    assert answer["usage"] == expected["usage"] and answer["usage"]["prompt_tokens"] == len(ids)


def test_a_stream_has_the_pieces_of_the_answers(chat_server):
    fields = {"n": 2, "max_completion_tokens": 12, "logprobs": True, "top_logprobs": 3}
    whole = ask(chat_server, **fields)
    chunks = stream(chat_server, stream_options={"include_usage": True}, **fields)
    *chunks, last = chunks
    assert len({(one["id"], one["created"], one["object"]) for one in [*chunks, last]}) == 1
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(one["usage"] is None for one in chunks)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert texts[0] != texts[1]
    for choice in whole["choices"]:
        own = [one["choices"][0] for one in chunks]
        own = [one for one in own if one["index"] == choice["index"]]
        first, *between, end = own
        assert first["delta"]["role"] == "assistant" and first["delta"]["content"]
        assert all({*one["delta"]} == {"content"} for one in between)
        assert (end["delta"], end["finish_reason"]) == ({}, "length")
        assert all(one["finish_reason"] is None for one in [first, *between])
        text = "".join(one["delta"].get("content", "") for one in own)
        assert text == choice["message"]["content"]
        scores = [score for one in own if one["logprobs"] for score in one["logprobs"]["content"]]
        assert scores == choice["logprobs"]["content"]


def test_log_probabilities_have_bytes_and_alternatives(chat_server):
    fields = {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 20}
    (choice,) = ask(chat_server, **fields)["choices"]
    scores = choice["logprobs"]["content"]
    assert "".join(score["token"] for score in scores) == choice["message"]["content"]
    for score in scores:
        best, *others = score["top_logprobs"]
        assert best == {name: score[name] for name in ("token", "logprob", "bytes")}
        assert len(others) == 19 and others[0]["logprob"] <= best["logprob"] < 0
        assert bytes(score["bytes"]).decode() == score["token"]
    (choice,) = ask(chat_server, max_tokens=1)["choices"]
    assert choice["logprobs"] is None


def test_a_call_that_is_required_is_made(chat_server):
    (choice,) = ask(chat_server, tools=[TOOL], tool_choice="required")["choices"]
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", None)
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"]["name"] == "f"
    assert json.loads(call["function"]["arguments"]) in ({"a": 1}, {"a": 2})

    strict = {"type": "function", "function": TOOL["function"] | {"strict": True}}
    (choice,) = ask(chat_server, tools=[strict], max_tokens=9)["choices"]
    assert choice["finish_reason"] == "length" and len(choice["message"]["content"]) == 9

    named = {"type": "function", "function": {"name": "f"}}
    first, end = (one["choices"][0] for one in stream(chat_server, tools=[TOOL], tool_choice=named))
    (part,) = first["delta"].pop("tool_calls")
    assert first["delta"] == {"role": "assistant", "content": None, "refusal": None}
    assert part["index"] == 0 and part["function"] == call["function"]
    assert (end["delta"], end["finish_reason"]) == ({}, "tool_calls")


def test_tools_stand_in_the_prompt_unless_none_may_be_called(chat_server, encoder):
    def read(**fields) -> int:
        return ask(chat_server, max_tokens=1, **fields)["usage"]["prompt_tokens"]

    without = len(encoder.encode_opening(TALK))
    assert read() == without == read(tools=[TOOL], tool_choice="none")
    pieces = encoder.template.opening(TALK, tools_for(encoder.template, [form_tool()]))
    assert read(tools=[TOOL]) == len(encoder.encode_pieces(pieces)) > without


def form_tool():
    return ChatForm(model="", messages=[], tools=[TOOL]).tools[0]


def test_json_and_ends_are_followed_as_in_completions(chat_server):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    (choice,) = ask(chat_server, response_format=wanted)["choices"]
    assert json.loads(choice["message"]["content"])["a"] in (True, False)
    assert choice["finish_reason"] == "stop"
    answer = ask(chat_server, temperature=0)
    assert answer["usage"]["total_tokens"] in range(200, 257)  # what the context leaves
    text = answer["choices"][0]["message"]["content"]
    (choice,) = ask(chat_server, temperature=0, stop=text[3:6])["choices"]
    assert choice["message"]["content"] == text[: text.index(text[3:6])]
    harmless = {"user": "a", "store": True, "metadata": {"a": "b"}, "service_tier": "auto"}
    harmless |= {"modalities": ["text"], "parallel_tool_calls": False, "audio": None}
    assert ask(chat_server, temperature=0, **harmless)["choices"] == answer["choices"]


IMAGE = {"type": "image_url", "image_url": {"url": "http://a/b.png"}}
MISTAKES = {
    "a picture": ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content"),
    "no content": ({"messages": [*TALK, {"role": "user"}]}, "messages.1.content"),
    "a number": ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    "another role": ({"messages": [{"role": "bot", "content": ""}]}, "messages.0.role"),
    "no message": ({"messages": []}, "messages"),
    "too many messages": ({"messages": 257 * TALK}, "messages"),
    "a call of the user": (
        {"messages": [TALK[0] | {"tool_calls": [CALL]}]},
        "messages.0.tool_calls",
    ),
    "a tool's answer to nothing": (
        {"messages": [{"role": "tool", "content": "a"}]},
        "messages.0.tool_call_id",
    ),
    "arguments that are no JSON": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [CALL | {"function": {"name": "f", "arguments": '"\\ud800"'}}],
                }
            ]
        },
        "messages.0.tool_calls",
    ),
    "a function that is not there": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    "a choice of nothing": ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
    "no tools to choose from": ({"tool_choice": "required"}, "tool_choice"),
    "two of one name": ({"tools": [TOOL, TOOL]}, "tools"),
    "a tool that is no function": ({"tools": [{"type": "custom"}]}, "tools.0.type"),
    "a schema elsewhere": (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"$ref": "http://a/b"}},
                }
            ],
            "tool_choice": "required",
        },
        "tools.0.function.parameters",
    ),
    "a large schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"enum": ["a" * 70_000]}},
            }
        },
        "response_format",
    ),
    "alternatives alone": ({"top_logprobs": 2}, "top_logprobs"),
    "too many alternatives": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "sound": ({"modalities": ["text", "audio"]}, "modalities"),
    "no such parameter": ({"max_completion_token": 2}, "max_completion_token"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_by_its_parameter(case, chat_server):
    fields, param = MISTAKES[case]
    content = {"model": chat_server.model, "messages": TALK} | fields
    status, body = chat_server.request(PATH, content)
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_a_conversation_that_is_too_long_has_its_own_code(chat_server):
    content = {"model": chat_server.model, "messages": [{"role": "user", "content": "a" * 300}]}
    status, body = chat_server.request(PATH, content)
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, "messages")
    assert error["code"] == "context_length_exceeded" and "only 255" in error["message"]


def test_a_conversation_whose_client_leaves_is_not_formatted():
    given_up = []

    class Sandbox:
        def preload(self, *modules): ...

        async def run(self, *arguments, client, param):
            try:
                await asyncio.Event().wait()
            finally:
                given_up.append(client)

    async def read(request, form):
        return form.of({"model": "m", "messages": TALK})

    async def leave():
        return {"type": "http.disconnect"}

    service = SimpleNamespace(
        predictor=SimpleNamespace(tokenizer=ChatTokenizer(Tokenizer.bytes(), None)),
        texts=SimpleNamespace(),
        sandbox=Sandbox(),
        name="m",
        read=read,
        client_of=lambda request: "a client",
    )
    (route,) = routes(service)
    with pytest.raises(ClientLeft):
        asyncio.run(route.endpoint(SimpleNamespace(receive=leave)))
    assert given_up == ["a client"]


def test_a_prediction_is_no_message():
    tokenizer = ChatTokenizer(Tokenizer.bytes(), None)
    job = Job(Request((1, 2), prediction="Lima."), tokenizer, None, None)
    assert bytes(job.prediction) == b"Lima."


def test_log_probabilities_are_made_while_they_are_written():
    class Texts(TokenTexts):
        asked = 0

        def text(self, token):
            self.asked += 1
            return super().text(token)

    texts = Texts(Tokenizer.characters(["abc"]))
    form = ChatForm(model="", messages=[], n=2, logprobs=True, top_logprobs=1)
    job = Job(Request((1,), logprobs=True), texts._tokenizer, None, None)
    job.logprobs = 3 * [TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.5)))]
    job.end()
    service = SimpleNamespace(name="m", fingerprint="f")
    answer = ChatBody(service, texts, form).whole(
        [job, job], [job.completion] * 2, usage([job, job], 2)
    )
    assert texts.asked == 0  # So other threads get turns between two tokens.
    written = json.loads(fast_json_response(answer, exclude_unset=True).body)
    assert texts.asked == 2 * 3 * 2
    first, second = written["choices"]
    assert len(first["logprobs"]["content"]) == 3 and first["logprobs"] == second["logprobs"]
    assert "tool_calls" not in first["message"]


def test_messages_have_the_form_that_templates_read():
    form = ChatForm(
        model="",
        messages=[
            {"role": "developer", "content": "a"},
            *TOLD[1:],
            {"role": "assistant", "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
        ],
    )
    call = CALL | {"function": {"name": "f", "arguments": {"a": 1}}}
    assert messages_for(ChatTemplate(TEMPLATE), form.messages) == [
        {"role": "system", "content": "a"},
        *TALK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "call_1", "name": "f"},
        {"role": "assistant", "content": "no"},
        {"role": "assistant", "content": "never"},
    ]


def test_a_template_without_tools_refuses_them():
    form = ChatForm(model="", messages=TOLD, tools=[TOOL])
    with pytest.raises(ApiError, match="does not read them") as caught:
        tools_for(ChatTemplate(None), form.usable_tools)
    assert caught.value.param == "tools"
    with pytest.raises(ApiError, match="writes no calls") as caught:
        messages_for(ChatTemplate(None), form.messages)
    assert caught.value.param == "messages.2.tool_calls"


def test_of_several_tools_those_that_are_allowed_can_be_called():
    second = {"type": "function", "function": {"name": "g"}}
    allowed = [{"type": "function", "function": {"name": "g"}}]
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": allowed},
    }
    form = ChatForm(model="", messages=[], tools=[TOOL, second], tool_choice=choice)
    assert form.must_call and [tool.function.name for tool in form.usable_tools] == ["g"]


def test_calls_match_the_parameters_where_they_must():
    other = {"$defs": {"n": {"const": 1}}, "properties": {"b": {"$ref": "#/$defs/n"}}}
    second = {"type": "function", "function": {"name": "g", "parameters": other}}
    tools = ChatForm(model="", messages=[], tools=[TOOL, second]).tools

    def allows(text: str, *, is_required: bool, may_repeat: bool = True) -> bool:
        made = call_grammar(tools, is_required=is_required, may_repeat=may_repeat)
        matcher = LLMatcher(LLTokenizer("byte"), Constraint("grammar", made).grammar())
        content = [*text.encode()]
        return matcher.try_consume_tokens(content) == len(content) and matcher.is_accepting()

    first = '<tool_call>\n{"name": "f", "arguments": {"a": 2}}\n</tool_call>'
    both = f'{first}<tool_call>{{"name": "g", "arguments": {{"b": 1}}}}</tool_call>'
    wrong = first.replace("2", "3")
    assert allows(first, is_required=True) and not allows(wrong, is_required=True)
    assert not allows("Hi", is_required=True) and not allows(both, is_required=True)
    assert allows("Hi < <tool>", is_required=False) and allows("", is_required=False)
    assert allows(f"Hi {both}\nBye", is_required=False)
    assert not allows(f"Hi {wrong}", is_required=False)
    assert allows(f"Hi {first}", is_required=False, may_repeat=False)
    assert not allows(both, is_required=False, may_repeat=False)


def test_a_model_of_other_data_says_what_it_has_instead():
    rules = AccessRules({"/v1/completions": {"POST": "token"}}, tokens=[], hosts=[])
    scope = {"path": PATH, "method": "POST", "headers": [(b"host", b"a")]}
    with pytest.raises(ApiError, match="trained on conversations: it has /v1/comp") as caught:
        rules.check(scope)
    assert caught.value.status == 404
