"""The Hub's client of the platform over real mutual TLS: who is let in, what is tried again, what is not."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from hub.authenticator import PlatformAuthenticator
from hub.platform_client import PlatformClient, PlatformError, PlatformUnreachable, ServerView
from tests.ports import free_port
from tests.process.hub_certificates import write_certificates
from tests.process.hub_platform import serving

VIEW = {
    "environment_id": "e", "version": 7, "observed": "queued", "desired": "running", "allocation_id": "a",
    "allocation_state": "queued", "generation": 1, "host": None, "container_name": None, "image": "i", "port": 8888,
    "cpu_milli": 1000, "memory_bytes": 1, "devices": [], "last_error": None, "something_new": 1,
    "wait": {"code": "no_capacity", "detail": "none free", "position": 2},
}  # fmt: skip


@dataclass
class Script:
    """Answers one after the other, the last one for ever."""

    answers: list[Response] = field(default_factory=list)
    asked: int = 0

    def next(self) -> Response:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass(frozen=True)
class Listener:
    script: Script
    url: str
    secrets_dir: Path


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    write_certificates(tmp_path)
    script, port, app = Script(), free_port(), FastAPI()
    app.add_api_route("/{path:path}", lambda path: script.next(), methods=["GET", "POST"], response_model=None)
    with serving(app, port=port, secrets_dir=tmp_path):
        yield Listener(script, f"https://127.0.0.1:{port}", tmp_path)


def ask(listener: Listener) -> ServerView:
    async def once() -> ServerView:
        client = PlatformClient(listener.url, listener.secrets_dir)
        try:
            return await client.view("ada", "lab")
        finally:
            await client.close()

    return asyncio.run(once())


def problem(status: int, code: str, **extra: Any) -> Response:
    return JSONResponse({"code": code, "detail": "because", "status": status} | extra, status_code=status)


def test_a_view_is_read_and_new_fields_are_ignored(listener: Listener) -> None:
    listener.script.answers = [JSONResponse(VIEW)]
    view = ask(listener)
    assert (view.version, view.active, view.over) == (7, False, False)
    assert view.wait is not None and view.wait.position == 2


def test_without_a_certificate_nothing_is_said(listener: Listener) -> None:
    listener.script.answers = [JSONResponse(VIEW)]
    context = ssl.create_default_context(cafile=str(listener.secrets_dir / "ca.pem"))
    with pytest.raises(httpx.TransportError), httpx.Client(verify=context, trust_env=False) as client:
        client.get(f"{listener.url}/internal/hub/options")
    assert listener.script.asked == 0


def test_a_passing_failure_is_tried_again(listener: Listener) -> None:
    listener.script.answers = [Response(status_code=500), Response(status_code=502), JSONResponse(VIEW)]
    assert ask(listener).version == 7


def test_a_lasting_failure_is_not_tried_for_ever(listener: Listener) -> None:
    listener.script.answers = [Response(status_code=500)]
    with pytest.raises(PlatformUnreachable):
        ask(listener)
    assert listener.script.asked == 3


@pytest.mark.parametrize(
    ("status", "code"), [(404, "no_such_environment"), (409, "lease_ended"), (503, "host_unreachable")]
)
def test_a_refusal_is_an_answer(listener: Listener, status: int, code: str) -> None:
    listener.script.answers = [problem(status, code)]
    with pytest.raises(PlatformError, match="because") as refused:
        ask(listener)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert listener.script.asked == 1


@pytest.mark.parametrize(
    ("answer", "let_in"),
    [
        (JSONResponse({"password_changed_at": None}), True),
        (JSONResponse({"password_changed_at": "2020-01-01T00:00:00+00:00"}), True),  # no session is as old as that
        (problem(403, "account_disabled"), False),
        (problem(404, "no_such_user"), False),
        (problem(429, "rate_limited"), True),
        (Response(status_code=500), True),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, Response) else "",
)
def test_only_a_clear_word_of_the_platform_shuts_a_user_out(listener: Listener, answer: Response, let_in: bool) -> None:
    listener.script.answers = [answer]

    async def refresh() -> bool:
        client = PlatformClient(listener.url, listener.secrets_dir)
        user = SimpleNamespace(name="ada", spawner=SimpleNamespace(platform=client))  # JupyterHub's
        try:
            return await PlatformAuthenticator(hub_url="http://hub", platform_url="http://platform").refresh_user(user)
        finally:
            await client.close()

    assert asyncio.run(refresh()) is let_in


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    with pytest.raises(PlatformUnreachable):
        ask(Listener(Script(), f"https://127.0.0.1:{free_port()}", tmp_path))
