"""The platform as the Hub sees it, for tests of the Hub alone: its OpenID endpoints and `/internal/hub/*`.

Containers are real: the operations run on the machine's Docker engine. What the platform decides (whether an allocation
is active, whether a host answers) the test sets.
"""

import base64
import hashlib
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import docker
import uvicorn
from docker.errors import APIError
from fastapi import FastAPI, Form, Header, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.middleware.base import RequestResponseEndpoint

IMAGE = "remotegpu/base:1"


@dataclass
class Environment:
    """One environment. `active` is what the queue decides; `host_answers` whether its host is reachable.

    Operations in `answers_lost` the host does, and nobody hears of it.
    """

    container_name: str
    options: dict[str, Any]
    active: bool
    host_answers: bool = True
    answers_lost: frozenset[str] = frozenset()
    desired: str = "running"
    observed: str = "queued"
    position: int = 3
    eta: str | None = None
    last_error: str | None = None
    version: int = 1
    ready: threading.Event = field(default_factory=threading.Event)

    def view(self) -> dict[str, Any]:
        over = self.observed in ("stopped", "failed")
        queued = not self.active and not over
        wait = {
            "code": "no_capacity", "detail": "no free A100 now", "position": self.position, "eta": self.eta,
            "eta_basis": "estimate" if self.eta else "unknown",
        }  # fmt: skip
        return {
            "environment_id": self.container_name, "version": self.version, "observed": self.observed,
            "desired": self.desired, "allocation_id": "a", "generation": 1, "host": "host-1",
            "allocation_state": "released" if over else "active" if self.active else "queued",
            "container_name": None if queued else self.container_name, "image": IMAGE, "port": 8888, "cpu_milli": 2000,
            "memory_bytes": 2 * 2**30, "devices": [], "last_error": self.last_error,
            "wait": wait if queued else None,
        }  # fmt: skip

    def entry(self, name: str) -> dict[str, Any]:
        view = self.view()
        same = {key: view[key] for key in ("observed", "desired", "devices", "wait", "last_error")}
        return {"name": name, "image": "base", "gpus": 1, "gpu_milli": 1000, "gpu_model": "A100-80GB", **same}


class HubPlatform:
    """State and both applications; `environments` by (username, name)."""

    def __init__(self, engine: docker.APIClient, prefix: str) -> None:
        self.engine = engine
        self.prefix = prefix
        self.environments: dict[tuple[str, str], Environment] = {}
        self.activate_at_once = True
        self.away, self.refused = False, 0
        self.changed = threading.Condition()
        self.operations: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, str] = {}
        self.client_secret = secrets.token_hex(16)
        self.shut_out: set[str] = set()  # names of users whose accounts are disabled
        self.password_changed_at: str | None = None
        self.run_time: dict[str, Any] | None = None
        self.user = {"sub": "1", "preferred_username": "ada", "email": "ada@example.org", "role": "customer_owner"}

    def forget(self) -> None:
        """What was asked before, and faults: between tests."""
        self.activate_at_once, self.away = True, False
        self.operations.clear()
        self.failures.clear()

    def change(self, username: str, name: str, **fields: Any) -> None:
        with self.changed:
            environment = self.environments[username, name]
            for key, value in fields.items():
                setattr(environment, key, value)
            environment.version += 1
            self.changed.notify_all()

    # --- OpenID ---------------------------------------------------------------------------------------------------

    def public_app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/oauth/authorize")
        def authorize(request: Request) -> Response:
            asked = dict(request.query_params)
            assert asked["client_id"] == "remotegpu-hub"
            assert asked["response_type"] == "code"
            assert asked["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(16)
            self.codes[code] = asked
            query = urlencode({"code": code, "state": asked["state"]})
            return RedirectResponse(f"{asked['redirect_uri']}?{query}", status_code=302)

        @app.post("/oauth/token")
        def token(
            code: str = Form(), code_verifier: str = Form(), redirect_uri: str = Form(), client_secret: str = Form("")
        ) -> Response:
            asked = self.codes.pop(code)
            digest = hashlib.sha256(code_verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            good = challenge == asked["code_challenge"] and redirect_uri == asked["redirect_uri"]
            if not good or client_secret != self.client_secret:
                return JSONResponse({"error": "invalid_grant"}, status_code=400)
            access = secrets.token_urlsafe(16)
            self.tokens[access] = self.user["preferred_username"]
            return JSONResponse({"access_token": access, "token_type": "Bearer", "expires_in": 60})

        @app.get("/oauth/userinfo")
        def userinfo(authorization: str = Header()) -> Response:
            assert authorization.removeprefix("Bearer ") in self.tokens
            return JSONResponse(self.user | {"password_changed_at": self.password_changed_at})

        @app.get("/oauth/logout")
        def logout(post_logout_redirect_uri: str, client_id: str) -> Response:
            return JSONResponse({"signed_out": True, "then": post_logout_redirect_uri, "client": client_id})

        return app

    # --- The internal listener ------------------------------------------------------------------------------------

    def internal_app(self) -> FastAPI:
        app = FastAPI()
        app.middleware("http")(self._unless_away)

        app.get("/internal/hub/options")(self._options)
        app.get("/internal/hub/users/{username}")(self._standing)
        app.get("/internal/hub/run-time")(lambda username: self.run_time)

        @app.get("/internal/hub/servers/{username}")
        def servers(username: str) -> dict[str, Any]:
            own = {name: found for (owner, name), found in self.environments.items() if owner == username}
            return {"items": [own[name].entry(name) for name in sorted(own)]}

        @app.post("/internal/hub/servers/{username}/{name}/start")
        def start(username: str, name: str, body: dict[str, Any]) -> Response:
            return self._start(username, name, body.get("options") or {})

        @app.get("/internal/hub/servers/{username}/{name}")
        def view(username: str, name: str, wait_s: float = 0, seen: int = -1) -> Response:
            environment = self.environments.get((username, name))
            if environment is None:
                return _problem(404, "not_found", "there is no such environment")
            with self.changed:
                self.changed.wait_for(lambda: environment.version != seen, timeout=wait_s)
            return JSONResponse(environment.view())

        @app.post("/internal/hub/servers/{username}/{name}/stop")
        def stop(username: str, name: str, body: dict[str, Any]) -> Response:
            assert body.get("container_name") in (None, self.environments[username, name].container_name)
            self.operations.append("platform:stop")
            self.change(username, name, desired="stopped")
            return JSONResponse(self.environments[username, name].view())

        @app.post("/internal/hub/servers/{username}/{name}/failed")
        def failed(username: str, name: str, body: dict[str, Any]) -> Response:
            assert body["container_name"] == self.environments[username, name].container_name
            self.failures.append(body["error"])
            return JSONResponse(self.environments[username, name].view())

        @app.post("/internal/hub/servers/{username}/{name}/ready")
        def ready(username: str, name: str) -> Response:
            self.change(username, name, observed="running")
            self.environments[username, name].ready.set()
            return Response(status_code=204)

        @app.post("/internal/hub/servers/{username}/{name}/docker/{operation}")
        def run(username: str, name: str, operation: str, body: dict[str, Any]) -> Response:
            return self._docker(self.environments[username, name], operation, body)

        return app

    def _standing(self, username: str) -> Response:
        if username in self.shut_out:
            return _problem(403, "account_disabled", "The account is disabled.")
        return JSONResponse({"password_changed_at": self.password_changed_at})

    def _options(self, username: str) -> dict[str, Any]:
        model = {
            "gpu_model": "A100-80GB", "free": 2, "total": 4, "price_micro_per_gpu_hour": 1_500_000,
            "currency": "EUR", "simulated": True,
        }  # fmt: skip
        image = {"name": "base", "description": "JupyterLab <plain>"}
        reservation = {
            "id": "0192d1b0-0000-7000-8000-000000000001", "starts_at": "2030-01-01T09:00:00Z",
            "ends_at": "2030-01-01T11:00:00Z", "gpus": 2,
        }  # fmt: skip
        return {
            "images": [image], "models": [model], "balance_micro": 12_340_000, "max_gpus": 4, "max_priority": 500,
            "capacity_groups": ["gold"], "workspaces": ["vision lab"], "reservations": [reservation],
        }  # fmt: skip

    async def _unless_away(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        self.refused += self.away
        return Response(status_code=502) if self.away else await call_next(request)

    def _start(self, username: str, name: str, options: dict[str, Any]) -> Response:
        environment = self.environments.get((username, name))
        if environment is None:
            if not options:
                return _problem(404, "not_found", "there is no such environment")
            if options["gpus"] > 4:
                return _problem(422, "quota_exceeded", "you may have up to 4 GPUs")
            container = f"{self.prefix}-{username}-{name}"
            environment = Environment(container, options, active=self.activate_at_once)
            self.environments[username, name] = environment
        elif environment.observed in ("stopped", "failed"):
            environment.observed = "queued"
        environment.desired = "running"
        return JSONResponse(environment.view())

    def _docker(self, environment: Environment, operation: str, body: dict[str, Any]) -> Response:
        self.operations.append(operation)
        if not environment.host_answers:
            return _problem(503, "host_unreachable", "the host does not answer")
        if not environment.active:
            return _problem(409, "lease_ended", "the lease has ended")
        try:
            answer = self._run(environment.container_name, operation, body)
            if operation in environment.answers_lost:
                return _problem(503, "host_unreachable", "the host does not answer")
            return JSONResponse(answer)
        except APIError as error:
            extra = {"docker_status": error.status_code, "docker_message": error.explanation}
            return _problem(424, "docker_error", "Docker refused", **extra)

    def _run(self, container: str, operation: str, body: dict[str, Any]) -> Any:
        match operation:
            case "create_container":
                self.created.append(body)
                limits = self.engine.create_host_config(port_bindings={8888: ("127.0.0.1",)}, mem_limit=2 * 2**30)
                return self.engine.create_container(
                    IMAGE, name=container, command=body["command"], environment=body["environment"],
                    labels=body["labels"], ports=[8888], host_config=limits,
                )  # fmt: skip
            case "inspect_container":
                return self.engine.inspect_container(container)
            case "start":
                return self.engine.start(container)
            case "stop":
                return self.engine.stop(container, timeout=body["timeout"])
            case "remove_container":
                return self.engine.remove_container(container, force=True, v=True)
            case "port":
                return self.engine.port(container, 8888)
            case "logs":
                return self.engine.logs(container, tail=body["tail"]).decode()
        raise AssertionError(operation)


def _problem(status: int, code: str, detail: str, **extra: Any) -> JSONResponse:
    return JSONResponse({"title": code, "status": status, "code": code, "detail": detail} | extra, status_code=status)


@contextmanager
def serving(app: FastAPI, *, port: int, secrets_dir: Path | None = None) -> Iterator[None]:
    """The application on 127.0.0.1:`port`; with `secrets_dir`, over mutual TLS."""
    tls: dict[str, Any] = {}
    if secrets_dir is not None:
        tls = {
            "ssl_certfile": secrets_dir / "internal.pem", "ssl_keyfile": secrets_dir / "internal.key",
            "ssl_ca_certs": str(secrets_dir / "ca.pem"), "ssl_cert_reqs": ssl.CERT_REQUIRED,
        }  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", **tls))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()
