"""The platform's client of the Hub's REST API, against a real Hub whose own line to the platform is cut."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.environments.hub_client import HubClient, HubError, SpawnFailed
from api.settings import Settings
from deploy.postgres import EmbeddedPostgres
from tests.ports import free_port
from tests.process.hub_certificates import write_certificates
from tests.process.hub_processes import HubProcesses


@pytest.fixture
def hub(scratch: Path, postgres: EmbeddedPostgres) -> Iterator[HubProcesses]:
    name = f"hub_{secrets.token_hex(4)}"
    directory = scratch / name
    directory.mkdir()
    postgres.ensure_database(name)
    nowhere = free_port()
    processes = HubProcesses(
        directory,
        postgres.url(name),
        public_url=f"http://127.0.0.1:{nowhere}",
        internal_url=f"https://127.0.0.1:{nowhere}",
    )
    processes.write_secrets(client_secret="unused")
    write_certificates(processes.secrets_dir)
    try:
        processes.start()
        yield processes
    finally:
        processes.stop()


def test_servers_of_users_that_the_hub_has_never_seen(hub: HubProcesses) -> None:
    settings = Settings(
        database_url="postgresql://unused",
        secrets_dir=hub.secrets_dir,
        hub_api_url=f"http://127.0.0.1:{hub.api_port}/hub/api",
    )
    client = HubClient(settings)
    try:
        assert client.server("ada", "lab") is None
        assert client.stop_server("ada", "lab", remove=True)  # nothing to stop is stopped
        with pytest.raises(HubError, match="does not answer") as caught:
            client.start_server("ada", "lab")  # the user is made; the Hub can't reach the platform
        assert not isinstance(caught.value, SpawnFailed)  # it may come back: this does not count as a failed start
        server = client.server("ada", "lab")
        assert server is None or not server.alive
        assert client.stop_server("ada", "lab", remove=True)
        assert client.server("ada", "lab") is None
        hub.stop_hub()
        with pytest.raises(HubError):
            client.start_server("ada", "lab")
    finally:
        client.close()
