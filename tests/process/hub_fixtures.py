"""A real Hub with its proxy over a stand-in platform, and what a person and the platform do with it."""

import html
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import httpx
import psycopg
import pytest
from docker.errors import NotFound

from deploy.base_image import ensure_base_image, has_image
from deploy.environment_image import ensure_environment_image
from deploy.postgres import EmbeddedPostgres
from tests.ports import free_port
from tests.process.hub_certificates import write_certificates
from tests.process.hub_platform import IMAGE, HubPlatform, serving
from tests.process.hub_processes import HubProcesses
from tests.process.self_signed import self_signed
from tests.waiting import wait_for

FORM = {"image": "base", "gpus": "1", "gpu_model": "A100-80GB", "cpus": "2", "memory_gib": "2"}


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.APIClient]:
    client = docker.DockerClient(version="auto", timeout=60)
    if not has_image(client, IMAGE):
        ensure_environment_image(client, base=ensure_base_image(client)[0], reference=IMAGE)
    yield client.api
    client.close()


@pytest.fixture(scope="module")
def hub_platform(engine: docker.APIClient) -> Iterator[HubPlatform]:
    replaced = HubPlatform(engine, prefix=f"rgt-{secrets.token_hex(4)}")
    yield replaced
    for environment in replaced.environments.values():
        with suppress(NotFound):
            engine.remove_container(environment.container_name, force=True, v=True)


@pytest.fixture(scope="module")
def hub(scratch: Path, postgres: EmbeddedPostgres, hub_platform: HubPlatform) -> Iterator[HubProcesses]:
    with running_hub(scratch, postgres, hub_platform) as processes:
        yield processes


@contextmanager
def running_hub(
    scratch: Path, postgres: EmbeddedPostgres, platform: HubPlatform, *, tls_address: str | None = None
) -> Iterator[HubProcesses]:
    """With a database of its own; with an address, behind a certificate for that."""
    name = f"hub_{secrets.token_hex(4)}"
    directory = scratch / name
    directory.mkdir()
    postgres.ensure_database(name)
    public, internal = free_port(), free_port()
    processes = HubProcesses(
        directory,
        postgres.url(name),
        public_url=f"http://127.0.0.1:{public}",
        internal_url=f"https://127.0.0.1:{internal}",
        tls=None if tls_address is None else self_signed(directory, address=tls_address),
    )
    processes.write_secrets(client_secret=platform.client_secret)
    write_certificates(processes.secrets_dir)
    with (
        serving(platform.public_app(), port=public),
        serving(platform.internal_app(), port=internal, secrets_dir=processes.secrets_dir),
    ):
        try:
            processes.start()
            yield processes
        finally:
            processes.stop()
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def browser(hub: HubProcesses) -> Iterator[httpx.Client]:
    """Ada, signed in at the Hub's address: the platform's sign-in page is passed without a word."""
    with httpx.Client(base_url=hub.url, follow_redirects=True, timeout=60) as client:
        page = client.get("/")
        assert page.status_code == 200, page.text
        assert page.url.path == "/hub/home"
        yield client


def start_by_form(browser: httpx.Client, name: str, form: dict[str, str] = FORM) -> httpx.Response:
    return browser.post(f"/hub/spawn/ada/{name}", data=form | {"_xsrf": xsrf(browser)})


def xsrf(browser: httpx.Client) -> str:
    """What the Hub's forms carry."""
    page = browser.get("/hub/spawn/ada/formed")
    assert page.status_code == 200, page.text
    token = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
    assert token
    return html.unescape(token[1])


def server(hub: HubProcesses, name: str) -> dict[str, object]:
    with hub.api as api:
        found: dict[str, object] = api.get(f"/users/ada/servers/{name}").raise_for_status().json()
        return found


def wait_ready(hub: HubProcesses, name: str) -> None:
    wait_for(lambda: bool(server(hub, name)["ready"]), timeout_s=60, what=f"{name} ready")


def start_by_rest(hub: HubProcesses, name: str) -> None:
    with hub.api as api:
        assert api.post(f"/users/ada/servers/{name}").status_code in (201, 202), hub.log()[-3000:]
    wait_ready(hub, name)


def stop_by_rest(hub: HubProcesses, name: str) -> None:
    with hub.api as api:
        assert api.delete(f"/users/ada/servers/{name}").status_code in (202, 204)
    wait_for(
        lambda: not server(hub, name)["ready"] and not server(hub, name)["pending"],
        timeout_s=60,
        what=f"{name} stopped",
    )
