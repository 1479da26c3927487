"""Answers the inputs of a request as a whole, in batches that requests share."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from inference.engine.batcher import Ticket
from serving.answers import Answers
from serving.errors import as_api_error, internal_error
from serving.responses import unless_client_leaves
from serving.service import Failure, Service
from serving.worker import Lane


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

    tokens: for each input, what it counts in the bound of the queue. param: the parameter that the
    inputs stand in; if there are several, errors name `param.N`. The body of the request must have
    been read.

    Raises `ApiError` if the queue is full, for an input that can't be answered, when a deadline has
    passed, and for a fault of the server; `ClientLeft` when the client leaves, whose inputs are
    then given up.
    """
    tickets: list[Ticket[Any, Any]] = [Ticket(one) for one in inputs]
    answers = Answers(
        service.worker,
        lane,
        tickets,
        client=service.client_of(request),
        tokens=tokens,
        limits=service.limits,
    )
    answers.open()
    try:
        await unless_client_leaves(request.receive, answers.wait())
    finally:
        answers.close()
    return [
        _output(ticket, place(param, number, len(tickets))) for number, ticket in enumerate(tickets)
    ]


def place(param: str, number: int, count: int) -> str:
    """Return what errors call input `number` of `count` inputs that stand in `param`."""
    return param if count == 1 else f"{param}.{number}"


def _output(ticket: Ticket[Any, Any], param: str) -> Any:
    if ticket.error is not None:
        raise as_api_error(ticket.error, param)
    if not ticket.is_ended or isinstance(ticket.output, Failure):
        raise internal_error()
    return ticket.output
