"""Commands that people run in their running tasks, over a WebSocket."""

import asyncio
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, WebSocket
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from api.deps import DatabaseDep, PrincipalDep
from api.errors import ApiError
from api.logs import connection
from api.tasks import exec_frames
from api.tasks.exec_frames import BadFrame
from api.tasks.exec_relay import ExecHosts, Relay, Terminal, fail, refuse
from api.tasks.exec_target import find_target, note

router = APIRouter(tags=["tasks"])

FIRST_S = 10.0  # how long the command is waited for

Rank = Annotated[int, Query(ge=0, le=9999)]
Size = Annotated[int, Query(ge=1, le=1000)]


async def _hosts(request: HTTPConnection) -> ExecHosts:
    return cast(ExecHosts, request.app.state.exec_hosts)


@router.websocket("/customer/tasks/{task_id}/exec")
async def exec_in_task(
    websocket: WebSocket,
    task_id: Annotated[UUID, Path()],
    principal: PrincipalDep,
    database: DatabaseDep,
    hosts: Annotated[ExecHosts, Depends(_hosts)],
    rank: Rank = 0,
    tty: bool = False,
    rows: Size = 24,
    cols: Size = 80,
) -> None:
    """Run a command in the container of a task that runs, until it ends or whoever asked for it leaves."""
    target = await find_target(database, principal, task_id, rank)
    with hosts.counted(principal):
        await websocket.accept()
        relay = Relay(websocket, hosts, target)
        try:
            command = exec_frames.first_of(await asyncio.wait_for(_first(websocket), FIRST_S)).command
            await run_in_threadpool(note, database, principal, target, command[0])
            await relay.start(command, Terminal(rows, cols) if tty else None)
            await connection.serve(websocket, relay.pass_output(), relay.pass_input())
        except (BadFrame, TimeoutError) as error:
            await _close(websocket, await refuse(websocket, BadFrame(str(error) or "no command came")))
        except ApiError as error:
            await _close(websocket, await fail(websocket, error))
        finally:
            await relay.end()


async def _first(websocket: WebSocket) -> bytes:
    """No bytes if there is none."""
    message = await websocket.receive()
    return message.get("bytes") or b""


async def _close(websocket: WebSocket, code: int | None) -> None:
    if code is not None:
        await websocket.close(code)
