"""The Hub's side of the internal listener, and a controller that answers as told."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from api.db import Database
from api.settings import Settings
from tests.db.environment_world import World
from tests.db.fleet import Fleet
from tests.db.listener import Listener

SERVER = "/internal/hub/servers/acme-owner/lab"
OPTIONS = {"options": {"image": "base", "gpus": 1, "gpu_model": "A100"}}


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    world = World.make(Fleet(database), settings)
    world.host()
    return world


@pytest.fixture
def hub(world: World, listener: Listener) -> Iterator[httpx.Client]:
    with listener.client("hub") as client:
        yield client


class Controller:
    """The controller's socket: answers as told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.answer: Any = {"Id": "c1"}
        self.hangs: threading.Event | None = None  # calls are answered once it is set
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route("/v1/hosts/{host_uid}/{operation}", self._serve, methods=["POST"])

    async def _serve(self, host_uid: str, operation: str, request: Request) -> JSONResponse:
        self.asked.append((f"{host_uid} {operation}", await request.json()))
        while self.hangs is not None and not self.hangs.is_set():
            await asyncio.sleep(0.02)
        return JSONResponse(self.answer, status_code=self.status)


@pytest.fixture
def controller(settings: Settings, scratch: Path) -> Iterator[Controller]:
    controller = Controller()
    config = uvicorn.Config(controller.app, uds=str(settings.hostlink_socket), log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    yield controller
    server.should_exit = True
    thread.join(20)
