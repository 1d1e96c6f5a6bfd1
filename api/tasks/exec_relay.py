"""A command in a task between whoever asked for it and the host that runs it.

Neither side is sent more than it takes: input waits until the command has read, and the command until its output is
taken. So what one session holds here is at most a message each way.
"""

import base64
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter

from api.errors import ApiError, Conflict, TooManyRequests, Unavailable
from api.hostlink import Hostlink
from api.logs.connection import AGAIN, DONE
from api.principal import Principal
from api.tasks import exec_frames
from api.tasks.exec_frames import BadFrame, Channel, Input, Resize
from api.tasks.exec_target import Target
from scheduler.host_protocol import ExecOutput

REFUSED, OVER = 4400, 4409  # codes of closing: a message was none, and it does not run, or not any more
_MOST = 24  # sessions of one replica: each waits for its host in a thread, on a connection to the controller
_MOST_OF_CUSTOMER = 12
_WAIT_MS = 1000
_PART = 48 * 2**10  # bytes of input in one call
_OVER = {"lease_ended", "stale_generation", "no_session"}  # what a host says of a session whose task has ended
_ENDED = "It ended together with the task."
_OUTPUT = TypeAdapter(ExecOutput)

log = logging.getLogger(__name__)


class ExecHosts:
    """The way of all sessions to their hosts, apart from all other calls: those must not wait behind them."""

    def __init__(self, hostlink: Hostlink) -> None:
        self._hostlink = hostlink
        self._limiter: CapacityLimiter | None = None  # belongs to the loop that it is made in
        self._sessions: Counter[int] = Counter()

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """Around a session.

        Raises:
            TooManyRequests: as many are open as may.
        """
        customer_id = principal.tenant_id
        if self._sessions[customer_id] >= _MOST_OF_CUSTOMER or self._sessions.total() >= _MOST:
            raise TooManyRequests("Too many commands run in tasks; end some first.", code="too_many_sessions")
        self._sessions[customer_id] += 1
        try:
            yield
        finally:
            self._sessions[customer_id] -= 1

    async def call(self, host_uid: str, operation: str, **body: Any) -> dict[str, Any]:  # Any: JSON
        """
        Raises:
            HostUnreachable
            Conflict: `not_running`, `too_many_sessions`, `task_ended`.
            Unavailable: the host could not.
        """
        self._limiter = self._limiter or CapacityLimiter(3 * _MOST)
        ask = partial(self._hostlink.call, host_uid, operation, body)
        status, answer = await to_thread.run_sync(ask, limiter=self._limiter)
        if status != HTTPStatus.OK:
            log.info("%s was refused by its host: %s", operation, answer)
            raise _refusal(dict(answer))
        return dict(answer)

    def close(self) -> None:
        self._hostlink.close()


@dataclass(frozen=True, slots=True)
class Terminal:
    rows: int
    cols: int


@dataclass(slots=True)
class Relay:
    """One session. `session` is its name on the host, once it has one."""

    websocket: WebSocket
    hosts: ExecHosts
    target: Target
    session: str = ""

    async def start(self, command: list[str], terminal: Terminal | None) -> None:
        """Raises: HostUnreachable, Conflict."""
        answer = await self.hosts.call(
            self.target.host_uid,
            "exec_start",
            allocation_uid=self.target.allocation_uid,
            generation=self.target.generation,
            command=command,
            terminal=None if terminal is None else {"rows": terminal.rows, "columns": terminal.cols},
        )
        self.session = str(answer["session"])

    async def pass_output(self) -> int | None:
        """Until the command has ended; with what the connection is to be closed then, None if it is."""
        try:
            while True:
                output = _OUTPUT.validate_python(await self._call("exec_read", wait_ms=_WAIT_MS))
                for channel, text in ((Channel.STDOUT, output.stdout), (Channel.STDERR, output.stderr)):
                    if text:
                        await self.websocket.send_bytes(exec_frames.output(channel, base64.b64decode(text)))
                if output.over:
                    return await self._over(output)
                if not output.stdout and not output.stderr:
                    await self.websocket.send_bytes(exec_frames.control())  # so that each side knows of the other
        except WebSocketDisconnect:
            return None
        except ApiError as error:
            return await fail(self.websocket, error)

    async def pass_input(self) -> int | None:
        """Until whoever sends it has left, or sends what is none."""
        try:
            while (message := await self.websocket.receive())["type"] != "websocket.disconnect":
                try:
                    await self._take(exec_frames.parse(message.get("bytes") or b""))
                except BadFrame as error:
                    return await refuse(self.websocket, error)
        except WebSocketDisconnect:
            pass
        except ApiError as error:
            return await fail(self.websocket, error)
        return None

    async def end(self) -> None:
        """Whatever has become of the connection: the host ends by itself what is asked for no more, but later."""
        if not self.session:
            return
        with CancelScope(shield=True):
            try:
                await self._call("exec_end")
            except ApiError as error:
                log.warning("a command in a task is left to its host to end: %s", error)

    async def _take(self, given: Input | Resize) -> None:
        if isinstance(given, Resize):
            await self._call("exec_resize", rows=given.rows, columns=given.cols)
        elif given.end:
            await self._call("exec_write", end=True)
        else:
            place = 0
            while place < len(given.data):
                part = base64.b64encode(given.data[place : place + _PART]).decode()
                place += int((await self._call("exec_write", data=part))["taken"])

    async def _over(self, output: ExecOutput) -> int | None:
        if output.exit_code is None:
            return await fail(self.websocket, Conflict(_ENDED, code="task_ended"))
        await self.websocket.send_bytes(exec_frames.control(exit_code=output.exit_code))
        return DONE

    async def _call(self, operation: str, **body: Any) -> dict[str, Any]:  # Any: JSON
        return await self.hosts.call(self.target.host_uid, operation, session=self.session, **body)


def _refusal(answer: dict[str, Any]) -> ApiError:  # Any: a problem document
    code = answer.get("code")
    if code == "not_running":
        return Conflict("The task does not run now.", code="not_running")
    if code == "too_many_sessions":
        return Conflict("Too many commands run in the task, or on its host; end some.", code="too_many_sessions")
    if code in _OVER:
        return Conflict(_ENDED, code="task_ended")
    return Unavailable(f"The host could not do it: {answer.get('detail')}")


async def fail(websocket: WebSocket, error: ApiError) -> int | None:
    """Tell of what went wrong, as a problem; with what the connection is to be closed."""
    return await _tell(websocket, error.code, str(error), AGAIN if isinstance(error, Unavailable) else OVER)


async def refuse(websocket: WebSocket, error: BadFrame) -> int | None:
    return await _tell(websocket, "bad_message", str(error), REFUSED)


async def _tell(websocket: WebSocket, code: str, detail: str, closing: int) -> int | None:
    try:
        await websocket.send_bytes(exec_frames.control(error={"code": code, "detail": detail}))
    except WebSocketDisconnect:
        return None
    return closing
