"""The internal listener on a free port, with the platform's certificates. Loaded by `tests/db/conftest.py`."""

import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from api.db import Database
from api.internal.pki import Authority, make_request
from api.internal.server import serve_config
from api.machines import enrolment
from api.machines.tables import Host
from api.settings import Settings


@dataclass
class Listener:
    url: str
    secrets_dir: Path
    directory: Path

    def client(self, name: str | None) -> httpx.Client:
        """With the certificate `<name>.pem` of this test or of the platform; None: without one."""
        context = ssl.create_default_context(cafile=str(self.secrets_dir / "ca.pem"))
        if name is not None:
            place = self.directory if (self.directory / f"{name}.pem").exists() else self.secrets_dir
            context.load_cert_chain(place / f"{name}.pem", place / f"{name}.key")
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)

    def certify(self, database: Database, host: Host) -> str:
        """The name of a certificate of the host's, for `client`."""
        key, csr = make_request(host.name)
        authority = Authority(self.secrets_dir)
        issued = database.transact(
            lambda session: enrolment.issue(session, authority, session.get_one(Host, host.id), csr)
        )
        (self.directory / f"{host.name}.pem").write_text(issued.certificate_pem)
        (self.directory / f"{host.name}.key").write_text(key)
        return host.name

    def enrol(self, token: str, name: str = "h1") -> httpx.Response:
        key, csr = make_request(name)
        with self.client(None) as client:
            answer = client.post("/internal/enrol", json={"token": token, "name": name, "csr_pem": csr})
        if answer.status_code == 200:
            (self.directory / f"{name}.key").write_text(key)
            (self.directory / f"{name}.pem").write_text(answer.json()["certificate_pem"])
        return answer


@pytest.fixture
def listener(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Listener]:
    config = serve_config(settings.model_copy(update={"internal_port": 0}), database)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Listener(f"https://127.0.0.1:{port}", settings.secrets_dir, tmp_path)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
