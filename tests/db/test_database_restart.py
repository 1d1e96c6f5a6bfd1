"""A database that goes away under a running API: clear answers meanwhile, and everything as before when it is back."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.db import Database
from api.identity.passwords import hash_password
from api.identity.tables import User
from api.migrations.migrate import migrate
from api.principal import Role
from api.settings import Settings
from deploy.postgres import EmbeddedPostgres
from tests.db.conftest import PASSWORD
from tests.waiting import wait_for

LIST = "/api/v1/admin/allocations"


@pytest.fixture
def server(scratch: Path) -> Iterator[EmbeddedPostgres]:
    """One that no other test uses."""
    server = EmbeddedPostgres(Path(tempfile.mkdtemp(prefix="pg-", dir=scratch)))
    server.start()
    server.ensure_database("remotegpu")
    yield server
    server.stop()


@pytest.fixture
def own_database(server: EmbeddedPostgres) -> Iterator[Database]:
    database = Database(server.url("remotegpu"))
    migrate(database.engine)
    admin = User(username="admin", role=Role.ADMIN, password_hash=hash_password(PASSWORD))
    database.transact(lambda session: session.add(admin))
    yield database
    database.close()


@pytest.fixture
def client(own_database: Database, settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, own_database), raise_server_exceptions=False) as client:
        signed_in = client.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {signed_in.json()['access_token']}"
        yield client


def test_a_killed_server_recovers_and_its_clients_too(
    server: EmbeddedPostgres, own_database: Database, client: TestClient
) -> None:
    assert client.get(LIST).status_code == 200  # both pools have a connection now
    rename = {"display_name": "Before"}
    assert client.patch("/api/v1/auth/me", json=rename).status_code == 200
    postmaster = server.pid()
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    wait_for(lambda: server.pid() is None and not server.answers(), timeout_s=60, what="the end of the server")
    for method, path in (("GET", LIST), ("PATCH", "/api/v1/auth/me")):
        away = client.request(method, path, json=rename if method == "PATCH" else None)
        assert (away.status_code, away.json()["code"]) == (503, "unavailable"), away.text
        assert int(away.headers["retry-after"]) > 0
    server.start()
    assert server.pid() != postmaster
    assert client.get(LIST).status_code == 200
    assert client.get("/api/v1/auth/me").json()["display_name"] == "Before", "what was committed is there"


def test_a_restart_between_two_requests_is_not_noticed(server: EmbeddedPostgres, client: TestClient) -> None:
    for _ in range(2):
        assert client.get(LIST).status_code == 200
        assert client.patch("/api/v1/auth/me", json={"display_name": "x"}).status_code == 200
        server.stop()
        server.start()


def test_the_servers_user_can_not_swap_what_root_walks_through(server: EmbeddedPostgres) -> None:
    """Its processes would else put a link in the place of `data`, and have the next `up` give them what it leads to."""
    found = server.root.stat()
    assert (found.st_uid, found.st_mode & 0o022) == (os.geteuid(), 0)
    assert server.log.stat().st_size > 0


def test_the_pid_file_of_a_killed_server_may_name_another_process(server: EmbeddedPostgres) -> None:
    """Process ids come round again: this one's is alive, and no postmaster."""
    postmaster = server.pid()
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    wait_for(lambda: not server.answers(), timeout_s=60, what="the end of the server")
    lines = (server.data / "postmaster.pid").read_text().splitlines()
    (server.data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert server.pid() is None
    server.start()
    assert server.answers()
