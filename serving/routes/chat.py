"""`/v1/chat/completions`: the assistant's next message in a conversation."""

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from data.codecs.chat import ChatEncoder, ChatTemplate, ChatTokenizer, render_opening
from data.codecs.rendered import Piece as TemplatePiece
from inference.engine.job import Job
from inference.requests import Completion, TokenLogprob
from serving.errors import invalid
from serving.forms.answers import Usage, finite
from serving.forms.chat import (
    CallAnswer,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatForm,
    ChatLogprobs,
    ChatMessage,
    ChatTokenLogprob,
    FunctionAnswer,
    Message,
    Tool,
    TopLogprob,
)
from serving.forms.form import text_of
from serving.responses import unless_client_leaves
from serving.route import Route
from serving.routes.writing import AnswerBody, write
from serving.service import Service
from serving.texts import Piece, Prompt, TokenTexts
from serving.tool_calls import ToolCall, ToolCallReader, call_grammar


def routes(service: Service) -> list[Route]:
    """Return the route for conversations; none for a model that was not trained on them."""
    tokenizer = getattr(service.predictor, "tokenizer", None)
    if (texts := service.texts) is None or not isinstance(tokenizer, ChatTokenizer):
        return []
    encoder = tokenizer.encoder
    service.sandbox.preload("data.codecs.chat")

    async def converse(request: Request) -> Response:
        form = await service.read(request, ChatForm)
        jobs = await unless_client_leaves(
            request.receive, prepared(form, service.client_of(request))
        )
        return await write(
            service,
            texts,
            request,
            jobs,
            ChatBody(service, texts.tokens, form),
            texts_per_prompt=form.n,
            is_streamed=form.stream,
            includes_usage=form.includes_usage,
        )

    async def prepared(form: ChatForm, client: str) -> list[Job]:
        prompt = await _prompt(service, encoder, form, client)
        room = texts.room(len(prompt.ids))
        options = {}
        if form.constrains_calls:
            options["grammar"] = await asyncio.to_thread(
                call_grammar,
                form.usable_tools,
                is_required=form.must_call,
                may_repeat=form.parallel_tool_calls,
            )
        return await texts.prepare(
            [prompt],
            form,
            client=client,
            param="messages",
            max_tokens=room if form.most_tokens is None else form.most_tokens,
            logprobs=form.logprobs,
            **options,
        )

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            converse,
            "Writes the next message of a conversation.",
            form=ChatForm,
            answer=ChatAnswer,
            streams=True,
            event=ChatChunk,
            example={"model": service.name, "messages": [{"role": "user", "content": "Hello"}]},
        )
    ]


async def _prompt(service: Service, encoder: ChatEncoder, form: ChatForm, client: str) -> Prompt:
    """Return the conversation as tokens. The template is rendered in the sandbox, where it can be
    stopped."""
    template = encoder.template
    tools = tools_for(template, form.usable_tools) if form.usable_tools else None
    messages = messages_for(template, form.messages)
    try:
        rendered = await service.sandbox.run(
            render_opening, template, messages, tools, client=client, param="messages"
        )
    except ValueError as error:
        raise invalid(f"messages can't be formatted: {error}", "messages") from None
    pieces = [TemplatePiece(text, is_special, is_learnt=False) for text, is_special in rendered]
    ids = await asyncio.to_thread(encoder.encode_pieces, pieces)
    return Prompt("", tuple(ids.tolist()), 0)


def messages_for(template: ChatTemplate, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages in the form that chat templates of Hugging Face read.

    The arguments of calls become objects, the answer of a tool gets the name of its function, and
    the role `developer` becomes `system` unless the template knows it. Raises `ApiError` for
    content that is not text, and for calls if the template does not support them.
    """
    names: dict[str | None, str] = {}
    given = []
    for number, message in enumerate(messages):
        place = f"messages.{number}"
        role = message.role
        if role == "developer" and not template.knows_developer:
            role = "system"
        one: dict[str, Any] = {"role": role, "content": _content(message, place)}
        if message.tool_calls:
            if not template.reads_tool_calls:
                problem = "is not supported: the template of this model writes no calls"
                raise invalid(f"{place}.tool_calls {problem}", f"{place}.tool_calls")
            one["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments, f"{place}.tool_calls"),
                    },
                }
                for call in message.tool_calls
            ]
            names |= {call.id: call.function.name for call in message.tool_calls}
        if message.role == "tool":
            one["tool_call_id"] = message.tool_call_id
        name = message.name or names.get(message.tool_call_id)
        given.append(one if name is None else one | {"name": name})
    return given


def _content(message: Message, place: str) -> str:
    content = message.content
    if content is None:
        return message.refusal or ""
    if message.role == "assistant" and not isinstance(content, str):
        content = [
            {"type": "text", "text": part.get("refusal")} if part.get("type") == "refusal" else part
            for part in content
        ]
    return text_of(content, f"{place}.content")


def _arguments(text: str, place: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
        json.dumps(arguments, ensure_ascii=False).encode()  # raises for half of a surrogate pair
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid(f"{place}: arguments must be a JSON object, as text", place)
    return arguments


def tools_for(template: ChatTemplate, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return tools in the form that chat templates of Hugging Face read. Raises `ApiError` if the
    template does not support tools."""
    if not template.reads_tools:
        problem = "tools are not supported: the template of this model does not read them"
        raise invalid(problem, "tools", "unsupported_parameter")
    described = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.function.name}
        if tool.function.description is not None:
            function["description"] = tool.function.description
        function["parameters"] = tool.function.arguments_schema
        described.append({"type": "function", "function": function})
    return described


class ChatBody(AnswerBody):
    """Builds the bodies of the answers to a conversation."""

    def __init__(self, service: Service, tokens: TokenTexts, form: ChatForm):
        self._tokens, self._form = tokens, form
        self._head: dict[str, Any] = {
            "id": "chatcmpl-" + secrets.token_hex(12),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
        }
        self._streams = [_Stream(self._reader()) for _ in range(form.n)] if form.stream else []

    def whole(self, jobs: Sequence[Job], texts: Sequence[Completion], used: Usage) -> ChatAnswer:
        choices = (
            self._choice(index, completion, job.logprobs)
            for index, (job, completion) in enumerate(zip(jobs, texts, strict=True))
        )
        return ChatAnswer(**self._head, choices=choices, usage=used)

    def _choice(
        self, index: int, completion: Completion, logprobs: Sequence[TokenLogprob]
    ) -> ChatChoice:
        found: list[str | ToolCall] = [completion.text]
        if (reader := self._reader()) is not None:
            found = reader.read(completion.text, is_end=True)
        calls = [one for one in found if isinstance(one, ToolCall)]
        text = "".join(one for one in found if isinstance(one, str))
        made: dict[str, Any] = {"tool_calls": [_call_answer(call) for call in calls]}
        return ChatChoice(
            index=index,
            message=ChatMessage(
                role="assistant",
                content=None if calls and not text else text,
                refusal=None,
                **(made if calls else {}),
            ),
            logprobs=self._logprobs(logprobs),
            finish_reason=_finish_reason(completion, has_calls=bool(calls)),  # type: ignore[arg-type]
        )

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        stream, is_end = self._streams[piece.index], piece.completion is not None
        stream.logprobs += piece.logprobs
        found: list[str | ToolCall] = [piece.text] if piece.text else []
        if stream.reader is not None:
            found = stream.reader.read(piece.text, is_end=is_end)
        deltas = [stream.delta(one) for one in found]
        if is_end and not stream.has_role:
            deltas = [stream.delta("")]
        chunks = []
        for delta in deltas:
            chunks.append(self._chunk(piece.index, delta, self._logprobs(stream.logprobs), None))
            stream.logprobs = []
        if piece.completion is not None:
            reason = _finish_reason(piece.completion, has_calls=stream.calls > 0)
            rest = self._logprobs(stream.logprobs) if stream.logprobs else None
            chunks.append(self._chunk(piece.index, {}, rest, reason))
        return chunks

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: ChatLogprobs | None,
        reason: str | None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, used: Usage) -> dict[str, Any]:
        head = self._head | {"object": "chat.completion.chunk"}
        return head | {"choices": [], "usage": used.model_dump()}

    def _reader(self) -> ToolCallReader | None:
        if not self._form.usable_tools:
            return None
        return ToolCallReader(most_calls=None if self._form.parallel_tool_calls else 1)

    def _logprobs(self, scores: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        if not self._form.logprobs:
            return None
        most = self._form.top_logprobs
        content = (self._token_logprob(one, most) for one in scores)
        return ChatLogprobs(content=content, refusal=None)

    def _token_logprob(self, score: TokenLogprob, most: int) -> ChatTokenLogprob:
        top = [TopLogprob(**self._scored(*pair)) for pair in score.top[:most]]
        return ChatTokenLogprob(**self._scored(score.token, score.logprob), top_logprobs=top)

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        content = self._tokens.bytes_of(token)
        return {
            "token": self._tokens.text(token),
            "logprob": finite(logprob),
            "bytes": None if content is None else list(content),
        }


class _Stream:
    """The state of a streamed answer. reader: finds tool calls; None if no tool may be called.
    logprobs: those that are not sent yet."""

    def __init__(self, reader: ToolCallReader | None):
        self.reader = reader
        self.logprobs: list[TokenLogprob] = []
        self.has_role, self.calls = False, 0

    def delta(self, part: str | ToolCall) -> dict[str, Any]:
        """Return the delta with a part of the answer. The first one also has the role."""
        role = {} if self.has_role else {"role": "assistant", "refusal": None}
        self.has_role = True
        if isinstance(part, str):
            return role | {"content": part}
        call = {"index": self.calls} | _call_answer(part).model_dump()
        self.calls += 1
        return role | ({"content": None} if role else {}) | {"tool_calls": [call]}


def _call_answer(call: ToolCall) -> CallAnswer:
    function = FunctionAnswer(name=call.name, arguments=call.arguments)
    return CallAnswer(id=call.id, type="function", function=function)


def _finish_reason(completion: Completion, *, has_calls: bool) -> str:
    reason = completion.finish_reason
    return "tool_calls" if has_calls and reason == "stop" else reason
