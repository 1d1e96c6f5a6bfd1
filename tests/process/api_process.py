"""The API's own process over a database of the tests: `python -m api.server` on free ports."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from api.internal.pki import ensure_pki
from tests.ports import free_port

_TIMEOUT_S = 60.0
_SECRETS = ("signing_key_secret", "hub_oidc_client_secret", "ray_token", "hub_api_token")


@dataclass(frozen=True, slots=True)
class ApiProcess:
    public_url: str
    internal_url: str
    secrets_dir: Path
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def running_api(database_url: str, directory: Path, **variables: str) -> Iterator[ApiProcess]:
    """A server that answers, with its secrets and log below `directory`; `variables` are further settings."""
    secrets = directory / "secrets"
    secrets.mkdir(mode=0o700)
    for name in _SECRETS:
        (secrets / name).write_text("for-tests")
    ensure_pki(secrets, ["127.0.0.1"])
    public, internal = free_port(), free_port()
    environment = {
        **os.environ,
        "REMOTEGPU_DATABASE_URL": database_url,
        "REMOTEGPU_SECRETS_DIR": str(secrets),
        "REMOTEGPU_LISTEN_PORT": str(public),
        "REMOTEGPU_INTERNAL_PORT": str(internal),
        "REMOTEGPU_HOSTLINK_SOCKET": str(directory / "hostlink.sock"),
        "REMOTEGPU_OBJECT_STORE_URL": (directory / "objects").as_uri(),
        **variables,
    }
    log = directory / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stdout=output, stderr=output)
    try:
        scheme = "https" if "REMOTEGPU_TLS_CERT" in variables else "http"
        api = ApiProcess(f"{scheme}://127.0.0.1:{public}", f"https://127.0.0.1:{internal}", secrets, log, process)
        _wait_until_it_answers(api)
        yield api
    finally:
        process.terminate()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(api: ApiProcess) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        assert api.process.poll() is None, api.log.read_text()
        try:
            httpx.get(f"{api.public_url}/health", trust_env=False, verify=False)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not answer in time")
