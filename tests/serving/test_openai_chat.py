"""OpenAI's own client works with conversations, embeddings and recordings unchanged."""

import base64
import struct

import openai
import pydantic
import pytest

from tests.serving.in_process import tone
from tests.serving.test_openai_client import client_of

MESSAGES = [{"role": "user", "content": "Is 2 even?"}]

TOOL = {
    "type": "function",
    "function": {
        "name": "is_even",
        "description": "Tells whether a number is even.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"enum": [1, 2]}},
            "required": ["number"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Verdict(pydantic.BaseModel):
    """An answer in a form of its own."""

    even: bool
    digit: int = pydantic.Field(ge=0, le=9)


@pytest.fixture
def chat(chat_server):
    """Ask for answers in a conversation."""
    client = client_of(chat_server)

    def ask(create=client.chat.completions.create, **fields):
        return create(**{"model": chat_server.model, "messages": MESSAGES} | fields)

    ask.client = client
    return ask


def test_an_answer_in_a_conversation(chat):
    answer = chat(max_completion_tokens=6, seed=1, temperature=0, store=False, user="somebody")
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.message.refusal is None and choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    assert answer.usage.completion_tokens >= len(choice.message.content)
    again = [*MESSAGES, choice.message.model_dump(), {"role": "user", "content": "And 3?"}]
    assert chat(messages=again, max_tokens=2).choices


def test_a_streamed_conversation(chat):
    fields = {"max_tokens": 12, "seed": 4, "logprobs": True, "top_logprobs": 2, "n": 2}
    whole = chat(**fields)
    stream = chat(**fields, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    for index, choice in enumerate(whole.choices):
        parts = [one for chunk in chunks for one in chunk.choices if one.index == index]
        assert [parts[0].delta.role, *{part.delta.role for part in parts[1:]}] == [
            "assistant",
            None,
        ]
        text = "".join(part.delta.content or "" for part in parts)
        assert text == choice.message.content
        assert parts[-1].finish_reason == choice.finish_reason
        scores = [one.logprob for part in parts if part.logprobs for one in part.logprobs.content]
        assert scores == [one.logprob for one in choice.logprobs.content]
        assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content)
    assert (last.choices, last.usage) == ([], whole.usage)


def test_the_stream_that_the_client_puts_together(chat):
    fields = {"stop": ["a", "e", "i", "o"], "seed": 2}  # The client refuses an answer that is cut.
    with chat.client.chat.completions.stream(
        model=chat.client.models.list().data[0].id, messages=MESSAGES, **fields
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == chat(**fields).choices[0].message.content


def test_an_answer_is_parsed(chat):
    try:
        answer = chat(
            chat.client.chat.completions.parse, response_format=Verdict, max_tokens=40, seed=0
        )
    except openai.LengthFinishReasonError as error:
        pytest.fail(f"the answer was cut: {error}")
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Verdict) and answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_of_a_tool(chat, is_streamed):
    fields = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 120, "seed": 0}
    fields["parallel_tool_calls"] = False
    if is_streamed:
        with chat.client.chat.completions.stream(
            model=chat.client.models.list().data[0].id, messages=MESSAGES, **fields
        ) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = chat(**fields).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "is_even"
    assert pydantic.TypeAdapter(dict[str, int]).validate_json(call.function.arguments)
    told = {"role": "tool", "tool_call_id": call.id, "content": "true"}
    history = [*MESSAGES, choice.message.model_dump(exclude_none=True), told]
    if is_streamed:
        del history[1]["tool_calls"][0]["function"]["parsed_arguments"]
    assert chat(messages=history, tools=[TOOL], tool_choice="none", max_tokens=2).choices


@pytest.mark.parametrize("input_", ["1 2", ["1 2", "3"], [[1, 2], [3]]])
def test_embeddings(text_server, input_):
    client = client_of(text_server)
    create = client.embeddings.create
    answer = create(model=text_server.model, input=input_)  # as base64
    floats = create(model=text_server.model, input=input_, encoding_format="float")
    assert answer.object == "list" and answer.usage == floats.usage
    for one, other in zip(answer.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(value**2 for value in one.embedding) == pytest.approx(1, abs=1e-4)
    raw = create(model=text_server.model, input=input_, encoding_format="base64").data[0].embedding
    assert list(struct.unpack(f"<{len(raw) * 3 // 16}f", base64.b64decode(raw))) == pytest.approx(
        floats.data[0].embedding, abs=1e-6
    )


def test_transcripts(speech_server):
    create = client_of(speech_server).audio.transcriptions.create
    fields = {"model": speech_server.model, "file": ("tone.wav", tone(0.5))}
    plain = create(**fields)
    assert plain.text and plain.usage.seconds == pytest.approx(0.5, abs=0.01)
    verbose = create(**fields, response_format="verbose_json", timestamp_granularities=["segment"])
    assert verbose.text == plain.text and verbose.duration == pytest.approx(0.5, abs=0.01)
    assert create(**fields, response_format="text").strip() == plain.text
    assert isinstance(create(**fields, response_format="srt"), str)
    assert create(**fields, response_format="vtt").startswith("WEBVTT")
    *_, last = create(**fields, stream=True)
    assert (last.type, last.text) == ("transcript.text.done", plain.text)
    with pytest.raises(openai.BadRequestError) as error:
        create(model=speech_server.model, file=("tone.wav", b"RIFF, but no sound"))
    assert error.value.param == "file"
