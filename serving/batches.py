"""Answers each input of a request as a whole, in batches that requests share."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from configs.errors import UsageError
from inference.engine.batcher import Ticket
from serving.answers import Answers
from serving.errors import as_api_error, internal_error
from serving.forms.answers import AnswerModel
from serving.forms.inputs import ReadUsage, place
from serving.responses import json_response, unless_client_leaves
from serving.service import Failure, Service
from serving.worker import Lane

Content = TypeVar("Content")


async def answer_inputs(
    service: Service,
    lane: Lane,
    request: Request,
    inputs: Sequence[Any],
    *,
    tokens: Sequence[int],
    param: str = "input",
) -> list[Any]:
    """Return the outputs of `lane` for the inputs of a request, in order.

    tokens: for each input, how much it counts towards the bound of waiting tokens. param: the
    parameter that contains the inputs; if there are several, errors name `param.N`. The body of the
    request must have been read.

    Raises `ApiError` if the queue is full, for an input that can't be answered, when a deadline has
    passed, and for a fault of the server. Raises `ClientLeft` when the client disconnects; its
    inputs are then cancelled.
    """
    tickets: list[Ticket[Any, Any]] = [Ticket(one) for one in inputs]
    answers = Answers(
        service.worker,
        lane,
        tickets,
        client=service.client_of(request),
        tokens=tokens,
        limits=service.limits,
        arrival=request.state.arrival,
    )
    answers.open()
    try:
        await unless_client_leaves(request.receive, answers.wait())
    finally:
        answers.close()
    return [
        _output(ticket, place(param, number, len(tickets))) for number, ticket in enumerate(tickets)
    ]


async def read_inputs(read: Callable[[Any, str], Content], inputs: Sequence[Any]) -> list[Content]:
    """Return `read(input, name)` for each input. `read` is called in a thread.

    name: the name of the input in errors and warnings, such as `input.3`. Raises `ApiError` with
    this name for an input for which `read` raises `UsageError`.
    """

    def read_all() -> list[Content]:
        contents = []
        for number, one in enumerate(inputs):
            name = place("input", number, len(inputs))
            try:
                contents.append(read(one, name))
            except UsageError as error:
                raise as_api_error(error, name) from None
        return contents

    return await asyncio.to_thread(read_all)


async def answer_with(
    service: Service,
    tokens: Sequence[int],
    make: Callable[[ReadUsage], AnswerModel],
    render: Callable[[AnswerModel], Response] = json_response,
) -> Response:
    """Return the response with the body that `make` returns. It is made and rendered in a thread.

    tokens: the number of tokens of each input, for the usage in the answer and for the metrics.
    """
    count = sum(tokens)
    service.metrics.prompt_tokens.inc(count)
    usage = ReadUsage(prompt_tokens=count, total_tokens=count)
    return await asyncio.to_thread(lambda: render(make(usage)))


def _output(ticket: Ticket[Any, Any], param: str) -> Any:
    if ticket.error is not None:
        raise as_api_error(ticket.error, param)
    if not ticket.is_ended or isinstance(ticket.output, Failure):
        raise internal_error()
    return ticket.output
