"""A server whose model has failed ends, so that whoever runs it starts it again."""

from starlette.types import Receive, Scope, Send

from configs.schema.serve import Serve
from serving.server import listen, run


class FailingService:
    """A service whose model fails when it starts."""

    name = "model"
    is_draining = has_failed = False
    in_flight = 0
    has_given_up = has_stopped = False

    async def start(self) -> None:
        self.has_failed = True

    def give_up(self) -> None:
        self.has_given_up = True

    def stop(self) -> None:
        self.has_stopped = True


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers nothing."""


def test_a_server_ends_when_its_model_has_failed():
    service = FailingService()
    assert run(nothing, service, Serve(), listen("127.0.0.1", 0)) == 1
    assert service.has_given_up and service.has_stopped
