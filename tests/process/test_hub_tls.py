"""The Hub behind its proxy with a certificate for browsers: nothing in clear, and no cookie that would travel so."""

import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.instance import primary_address
from deploy.postgres import EmbeddedPostgres
from tests.ports import free_port
from tests.process.hub_certificates import write_certificates
from tests.process.hub_fixtures import xsrf
from tests.process.hub_platform import HubPlatform, serving
from tests.process.hub_processes import HubProcesses
from tests.process.self_signed import self_signed


@pytest.fixture
def tls_hub(scratch: Path, postgres: EmbeddedPostgres) -> Iterator[HubProcesses]:
    """No container is started on it, so that it needs no engine."""
    name = f"hub_{secrets.token_hex(4)}"
    directory = scratch / name
    directory.mkdir()
    postgres.ensure_database(name)
    no_engine: Any = None
    platform = HubPlatform(no_engine, prefix="none")
    public, internal = free_port(), free_port()
    hub = HubProcesses(
        directory,
        postgres.url(name),
        public_url=f"http://127.0.0.1:{public}",
        internal_url=f"https://127.0.0.1:{internal}",
        tls=self_signed(directory, address=primary_address()),
    )
    hub.write_secrets(client_secret=platform.client_secret)
    write_certificates(hub.secrets_dir)
    with (
        serving(platform.public_app(), port=public),
        serving(platform.internal_app(), port=internal, secrets_dir=hub.secrets_dir),
    ):
        try:
            hub.start()
            yield hub
        finally:
            hub.stop()
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def test_signing_in_over_tls(tls_hub: HubProcesses) -> None:
    assert tls_hub.tls is not None
    trust = ssl.create_default_context(cafile=str(tls_hub.tls[0]))
    with httpx.Client(base_url=tls_hub.url, verify=trust, follow_redirects=True, timeout=60) as browser:
        home = browser.get("/")
        assert (home.status_code, home.url.scheme, home.url.path) == (200, "https", "/hub/home"), home.text
        assert home.headers["strict-transport-security"] == "max-age=31536000"
        assert browser.cookies.jar
        assert [cookie.name for cookie in browser.cookies.jar if not cookie.secure] == []
        assert xsrf(browser)
        away = browser.get("/hub/logout").json()
        assert away["then"] == f"{tls_hub.url}/hub/home"
    clear = tls_hub.url.replace("https", "http")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{clear}/hub/health", timeout=10)
