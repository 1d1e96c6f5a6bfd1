"""`/ops/ray/` before a dashboard that writes down what reaches it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.db import Database
from api.settings import Settings
from tests.db.conftest import Person, Tenant
from tests.db.test_oidc import sign_in

OURS = {"sec-fetch-site": "same-origin"}


class RecordingDashboard(ThreadingHTTPServer):
    """Answers every GET with its own path, and keeps the headers that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: RecordingDashboard

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("set-cookie", "ray=1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def dashboard() -> Iterator[RecordingDashboard]:
    server = RecordingDashboard()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(settings: Settings, database: Database, dashboard: RecordingDashboard) -> Iterator[TestClient]:
    url = f"http://127.0.0.1:{dashboard.server_address[1]}"
    with TestClient(create_app(settings.model_copy(update={"ray_dashboard_url": url}), database)) as client:
        yield client


def test_administrator_reads_the_dashboard(client: TestClient, admin: Person, dashboard: RecordingDashboard) -> None:
    sign_in(client, "admin")
    assert client.get("/ops/ray/").text == "/"
    answer = client.get("/ops/ray/api/v0/tasks?limit=1&filter=a%2Fb", headers=OURS)
    assert answer.text == "/api/v0/tasks?limit=1&filter=a%2Fb"
    assert "set-cookie" not in answer.headers
    _, headers = dashboard.seen[-1]
    assert headers["authorization"] == "Bearer ray_token-for-tests"
    assert "cookie" not in headers


def test_nobody_else_does(client: TestClient, admin: Person, tenant: Tenant, dashboard: RecordingDashboard) -> None:
    assert client.get("/ops/ray/", follow_redirects=False).headers["location"].startswith("/account/login?")
    assert client.get("/ops/ray/api/jobs/", headers=OURS).status_code == 403
    assert (
        client.get("/ops/ray/api/jobs/", headers={**OURS, **admin.headers}).status_code == 403
    )  # a token is no session
    sign_in(client, "acme-owner")
    assert client.get("/ops/ray/").status_code == 403
    assert client.get("/ops/ray/api/jobs/", headers=OURS).status_code == 403
    assert dashboard.seen == []


def test_only_the_dashboards_own_pages_may_ask(
    client: TestClient, admin: Person, dashboard: RecordingDashboard
) -> None:
    sign_in(client, "admin")
    for site in ("cross-site", "same-site", "none"):
        assert client.get("/ops/ray/api/jobs/", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/ops/ray/api/jobs/").status_code == 403
    by_referer = client.get("/ops/ray/api/jobs/", headers={"referer": "http://testserver/ops/ray/"})
    assert by_referer.status_code == 200
    tossed = client.get("/ops/ray/api/jobs/", headers={"referer": "http://evil.test/ops/ray/"})
    assert tossed.status_code == 403


def test_it_is_for_reading_only(client: TestClient, admin: Person, dashboard: RecordingDashboard) -> None:
    sign_in(client, "admin")
    assert client.post("/ops/ray/api/jobs/", json={"entrypoint": "id"}, headers=OURS).status_code == 405
    assert client.get("/ops/ray/api/actors/kill?actor_id=1", headers=OURS).status_code == 404
    assert client.get("/ops/ray//api/actors/kill?actor_id=1", headers=OURS).status_code == 404
    assert client.get("/ops/ray/x/%2e%2e/api/actors/kill", headers=OURS).status_code == 404
    assert dashboard.seen == []


def test_absent_dashboard_is_said(settings: Settings, database: Database, admin: Person) -> None:
    gone = settings.model_copy(update={"ray_dashboard_url": "http://127.0.0.1:9"})
    with TestClient(create_app(gone, database)) as client:
        sign_in(client, "admin")
        answer = client.get("/ops/ray/")
    assert (answer.status_code, answer.json()["code"]) == (503, "ray_unavailable")
