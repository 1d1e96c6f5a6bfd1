"""The API's process: both listeners from one command, and its end."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx

from api.db import Database
from api.internal.pki import ensure_pki

_TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str) -> httpx.Response:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server did not answer in time")


def test_both_listeners(database: Database, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    for name in ("signing_key_secret", "hub_oidc_client_secret", "ray_token", "hub_api_token"):
        (secrets / name).write_text("for-tests")
    ensure_pki(secrets, ["127.0.0.1"])
    public, internal = free_port(), free_port()
    environment = {
        **os.environ,
        "REMOTEGPU_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "REMOTEGPU_SECRETS_DIR": str(secrets),
        "REMOTEGPU_LISTEN_PORT": str(public),
        "REMOTEGPU_INTERNAL_PORT": str(internal),
        "REMOTEGPU_HOSTLINK_SOCKET": str(tmp_path / "hostlink.sock"),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stdout=log, stderr=log)
    try:
        answer = wait_until_it_answers(process, f"http://127.0.0.1:{public}/health")
        assert answer.json() == {"status": "ok"}
        assert "server" not in answer.headers
        trust = ssl.create_default_context(cafile=str(secrets / "ca.pem"))
        ca = httpx.get(f"https://127.0.0.1:{internal}/internal/ca", verify=trust, trust_env=False)
        assert ca.status_code == 200
        # What is internal is not on the public listener, and the other way round.
        assert httpx.get(f"http://127.0.0.1:{public}/internal/ca", trust_env=False).status_code == 404
        outside = httpx.get(f"https://127.0.0.1:{internal}/api/v1/auth/me", verify=trust, trust_env=False)
        assert outside.status_code in (401, 403, 404)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_TIMEOUT_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
