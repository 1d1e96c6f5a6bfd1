"""The Hub behind its proxy with a certificate for browsers: nothing in clear, and no cookie that would travel so."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.instance import primary_address
from deploy.postgres import EmbeddedPostgres
from tests.process.hub_fixtures import running_hub, xsrf
from tests.process.hub_platform import HubPlatform
from tests.process.hub_processes import HubProcesses


@pytest.fixture
def tls_hub(scratch: Path, postgres: EmbeddedPostgres) -> Iterator[HubProcesses]:
    """No container is started on it, so that it needs no engine."""
    no_engine: Any = None
    platform = HubPlatform(no_engine, prefix="none")
    with running_hub(scratch, postgres, platform, tls_address=primary_address()) as hub:
        yield hub


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
