"""Asking the controller's engine when and where a request would start, through the controller's Unix socket."""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx
from pydantic import TypeAdapter, ValidationError

from api.errors import Unavailable
from api.waiting_room import WaitingRoom
from scheduler.plan_protocol import PlanAnswer, PlanQuestion

CONNECT_TIMEOUT_S = 2.0
TIMEOUT_S = 10.0
AT_ONCE = 4
WAITING = 12

_QUESTION = TypeAdapter(PlanQuestion)
_ANSWER = TypeAdapter(PlanAnswer)


class ControllerUnavailable(Unavailable):
    code = "controller_unavailable"


class Planner(Protocol):
    def plan(self, question: PlanQuestion) -> PlanAnswer:
        """Raises ControllerUnavailable."""


class SocketPlanner:
    """One per process; thread-safe."""

    def __init__(self, socket: Path) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=4, keepalive_expiry=30)
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        transport = httpx.HTTPTransport(uds=str(socket), limits=limits)
        self._client = httpx.Client(transport=transport, base_url="http://controller", timeout=timeout)
        self._socket = socket
        self._room = WaitingRoom(
            at_once=AT_ONCE, waiting=WAITING, refusal="Too many plans are asked for at this moment; try again."
        )

    def plan(self, question: PlanQuestion) -> PlanAnswer:
        """
        Raises:
            ControllerUnavailable: no controller leads, or it does not answer in time.
            TooManyRequests: the engine answers one at a time, between its cycles, and many are asking.
        """
        with self._room.turn():
            return self._ask(question)

    def _ask(self, question: PlanQuestion) -> PlanAnswer:
        if not self._socket.exists():
            raise ControllerUnavailable("The controller is not running now; try again later.")
        body = _QUESTION.dump_json(question)
        try:
            reply = self._client.post("/v1/plan", content=body, headers={"content-type": "application/json"})
            if reply.status_code == httpx.codes.OK:
                return _ANSWER.validate_json(reply.content)
        except (httpx.HTTPError, ValidationError) as error:
            sentence = f"The controller does not answer now ({type(error).__name__}); try again later."
            raise ControllerUnavailable(sentence) from error
        raise ControllerUnavailable(f"The controller can't answer now (HTTP {reply.status_code}); try again later.")

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
