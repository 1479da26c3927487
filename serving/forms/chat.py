"""The bodies of `/v1/chat/completions`."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from annotated_types import Ge, Interval

from configs.schema.serve import MOST_MESSAGES, Serve
from serving.errors import invalid
from serving.forms.answers import AnswerModel, Usage
from serving.forms.form import Part
from serving.forms.sampling import WritingForm, within

MOST_TOOLS = 128
"""Maximum number of tools in a request, as OpenAI documents it."""

Content = str | list[dict[str, Any]]
"""A text, or a list of parts. A part that is not a text is refused with an error that says where it
is."""

Name = Annotated[str, pydantic.Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
"""The name of a function."""


class CalledFunction(Part):
    """The function that a call names, and its arguments as JSON."""

    name: str
    arguments: str


class GivenCall(Part):
    """A tool call in an earlier message of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


_TEXTS = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ]
}


def _by_role(schema: dict[str, Any]) -> None:
    """Replace the JSON schema of messages by one for each role, since roles have different
    members."""
    properties, name = schema.pop("properties"), schema["title"]
    del schema["required"], schema["type"], schema["additionalProperties"]

    def one(roles: Sequence[str], required: Sequence[str], *others: str) -> dict[str, Any]:
        members = {"role": {"enum": [*roles]}, "content": _TEXTS, "name": properties["name"]}
        if "content" not in required:
            members["content"] = properties["content"]
        members |= {other: properties[other] for other in others}
        members |= {other: {"type": "string"} for other in required if other == "tool_call_id"}
        return {
            "title": f"{name} of {' or '.join(roles)}",
            "type": "object",
            "additionalProperties": False,
            "properties": members,
            "required": ["role", *required],
        }

    said = ("refusal", "annotations", "audio", "function_call")
    schema["anyOf"] = [
        one(("developer", "system", "user"), ("content",)),
        one(("assistant",), ("content",), "tool_calls", *said),
        one(("assistant",), ("tool_calls",), "tool_calls", *said),
        one(("tool",), ("content", "tool_call_id")),
    ]


class Message(Part):
    """A message of a conversation."""

    model_config = pydantic.ConfigDict(json_schema_extra=_by_role)

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionTool(Part):
    """A function that the assistant may call.

    parameters: the JSON schema of its arguments. Calls must match it if a call is required, or if
    one of the usable functions is strict and the answer need not be JSON.
    """

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def arguments_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments. Its type is object if `parameters` gives
        none."""
        given = {"type": "object", "properties": {}} if self.parameters is None else self.parameters
        return {"type": "object"} | given


class Tool(Part):
    """A tool. It is always a function."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Part):
    """The name of a function."""

    name: str


class ToolName(Part):
    """A tool, given by its name."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Part):
    """The tools that may be called, out of all in the request. mode: whether one of them must be
    called."""

    mode: Literal["auto", "required"]
    tools: list[ToolName]


class ToolChoice(Part):
    """The function that must be called, or the tools that may be called."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class ChatForm(WritingForm):
    """A request for the next message of a conversation."""

    ignored = WritingForm.ignored | {
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
    refused: ClassVar = {
        "audio": "this model writes text",
        "modalities": "this model writes text",
        "functions": "give tools",
        "function_call": "give tool_choice",
        "moderation": "this server has no moderation",
        "reasoning_effort": "this model does not reason before it answers",
        "service_tier": "this server has one tier",
        "verbosity": "ask for a length in a message, or set max_completion_tokens",
        "web_search_options": "this server searches nothing",
    }
    harmless: ClassVar = {
        "modalities": (["text"],),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "reasoning_effort": ("none",),
        "service_tier": ("auto", "default"),
        "verbosity": ("medium",),
    }

    messages: list[Message] = pydantic.Field(
        max_length=MOST_MESSAGES, json_schema_extra={"minItems": 1}
    )
    max_completion_tokens: Annotated[int, Ge(1)] | None = None
    max_tokens: Annotated[int, Ge(1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Interval(ge=0, le=20)] = 0
    tools: list[Tool] = pydantic.Field(default_factory=list, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = "auto"
    parallel_tool_calls: bool = True

    @property
    def most_tokens(self) -> int | None:
        """Return the maximum number of tokens of the answer; None: as many as the context
        leaves."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def usable_tools(self) -> list[Tool]:
        """Return the tools that may be called."""
        choice = self.tool_choice
        if isinstance(choice, str):
            return [] if choice == "none" else self.tools
        if choice.function is not None:
            names = [choice.function.name]
        else:
            allowed = choice.allowed_tools.tools if choice.allowed_tools is not None else []
            names = [tool.function.name for tool in allowed]
        return [tool for tool in self.tools if tool.function.name in names]

    @property
    def must_call(self) -> bool:
        """Return whether the answer must be a tool call."""
        choice = self.tool_choice
        if isinstance(choice, str):
            return choice == "required"
        return choice.allowed_tools is None or choice.allowed_tools.mode == "required"

    @property
    def wants_json(self) -> bool:
        """Return whether the answer must be JSON, which excludes tool calls."""
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def constrains_calls(self) -> bool:
        """Return whether calls must match the parameters of their functions."""
        is_strict = any(tool.function.strict for tool in self.usable_tools)
        return self.must_call or (is_strict and not self.wants_json)

    def check(self, limits: Serve) -> None:
        super().check(limits)
        for name in ("max_completion_tokens", "max_tokens"):
            within(getattr(self, name) or 0, limits.max_tokens, name)
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        if not self.messages:
            raise invalid("messages must not be empty", "messages")
        within(len(self.messages), limits.max_messages, "messages")
        for number, message in enumerate(self.messages):
            _check_message(message, f"messages.{number}")
        self._check_tools(limits)

    def _check_tools(self, limits: Serve) -> None:
        names = [tool.function.name for tool in self.tools]
        if len({*names}) < len(names):
            raise invalid("tools must have different names", "tools")
        for number, tool in enumerate(self.tools):
            if tool.function.arguments_schema["type"] != "object":
                place = f"tools.{number}.function.parameters"
                raise invalid(f"{place}.type must be object", place)
        size = sum(len(json.dumps(tool.function.parameters)) for tool in self.tools)
        within(size, limits.max_schema_bytes, "tools", "bytes of parameters")
        choice = self.tool_choice
        if isinstance(choice, ToolChoice):
            given = {name for name in ("function", "allowed_tools") if getattr(choice, name)}
            if given != {choice.type}:
                raise invalid(f"tool_choice needs {choice.type} beside its type", "tool_choice")
        if self.must_call and not self.usable_tools:
            known = ", ".join(names) or "none"
            raise invalid(f"tool_choice needs one of the tools: there are {known}", "tool_choice")
        if self.must_call and self.wants_json:
            raise invalid(
                "response_format can't be followed where tool_choice requires a call",
                "response_format",
            )


def _check_message(message: Message, place: str) -> None:
    is_assistant = message.role == "assistant"
    if message.tool_calls and not is_assistant:
        raise invalid(f"{place}.tool_calls is for the assistant", f"{place}.tool_calls")
    if message.role == "tool" and message.tool_call_id is None:
        raise invalid(f"{place}.tool_call_id is missing", f"{place}.tool_call_id")
    if message.content == []:
        raise invalid(f"{place}.content must not be an empty list", f"{place}.content")
    has_other = is_assistant and (message.tool_calls or message.refusal is not None)
    if message.content is None and not has_other:
        raise invalid(f"{place}.content is missing", f"{place}.content")


class TopLogprob(AnswerModel):
    """A possible token, and its log-probability. bytes: the text of the token in UTF-8; null if it
    has none."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TopLogprob):
    """A token of the answer, its log-probability, and the likeliest tokens at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(AnswerModel):
    """The log-probabilities of an answer's tokens. They are computed during serialisation."""

    content: Iterable[ChatTokenLogprob]
    refusal: None = None


class FunctionAnswer(AnswerModel):
    """The function that the assistant calls, and its arguments as JSON."""

    name: str
    arguments: str


class CallAnswer(AnswerModel):
    """A tool call that the assistant makes."""

    id: str
    type: Literal["function"]
    function: FunctionAnswer


class ChatMessage(AnswerModel):
    """The message of an answer. `tool_calls` is only present if there are calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[CallAnswer] = pydantic.Field(default_factory=list)


class ChatChoice(AnswerModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(AnswerModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: Iterable[ChatChoice]
    usage: Usage


class CallPart(CallAnswer):
    """A tool call in a part of an answer. index: the number of the call in the answer."""

    index: int


class ChatDelta(AnswerModel):
    """What a part of an answer adds to its message. It is empty in the last part."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: None = None
    tool_calls: list[CallPart] = pydantic.Field(default_factory=list)


class ChatPart(AnswerModel):
    """A part of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(AnswerModel):
    """An event of a streamed answer. The last event can have the token counts."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[ChatPart]
    usage: Usage | None = None
