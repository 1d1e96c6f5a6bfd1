"""The API's own process over a database of the tests: `python -m api.server` on free ports."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from api.internal.pki import ensure_pki
from tests.ports import free_port

_TIMEOUT_S = 60.0
_SECRETS = ("signing_key_secret", "hub_oidc_client_secret", "ray_token", "hub_api_token")


@dataclass(slots=True)
class ApiProcess:
    public_url: str
    internal_url: str
    secrets_dir: Path
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """It answers when this returns."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.server"], env=self.environment, stdout=output, stderr=output
            )
        _wait_until_it_answers(self)

    def kill(self) -> None:
        """As by `kill -9`. It may be started again."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


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
    scheme = "https" if "REMOTEGPU_TLS_CERT" in variables else "http"
    urls = f"{scheme}://127.0.0.1:{public}", f"https://127.0.0.1:{internal}"
    api = ApiProcess(*urls, secrets, directory / "api.log", environment)
    try:
        api.start()
        yield api
    finally:
        api.stop()


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
