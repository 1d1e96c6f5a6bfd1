"""A server of Ray's job interface that does nothing and says at once that it is done: the floor of Ray's client."""

import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

_JOB = "raysubmit_null"
_VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "null"}


async def _version(request: Request) -> JSONResponse:
    return JSONResponse(_VERSION)


async def _submit(request: Request) -> JSONResponse:
    return JSONResponse({"job_id": _JOB, "submission_id": _JOB})


async def _show(request: Request) -> JSONResponse:
    now_ms = int(time.time() * 1000)
    return JSONResponse(
        {
            "type": "SUBMISSION", "job_id": None, "submission_id": _JOB, "driver_info": None, "status": "SUCCEEDED",
            "entrypoint": "true", "message": "", "error_type": None, "start_time": now_ms, "end_time": now_ms,
            "metadata": {}, "runtime_env": {}, "driver_agent_http_address": None, "driver_node_id": None,
            "driver_exit_code": 0,
        }
    )  # fmt: skip


async def _tail(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


app = Starlette(
    routes=[
        Route("/api/version", _version),
        Route("/api/jobs/", _submit, methods=["POST"]),
        Route("/api/jobs/{job}", _show),
        WebSocketRoute("/api/jobs/{job}/logs/tail", _tail),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
