"""The API's process: both listeners from one command, and its end."""

import signal
import ssl
from pathlib import Path

import httpx
import pytest

from api.db import Database
from tests.process.api_process import running_api
from tests.process.self_signed import self_signed

_TIMEOUT_S = 60.0


def test_both_listeners(database: Database, tmp_path: Path) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    with running_api(url, tmp_path) as api:
        answer = httpx.get(f"{api.public_url}/health", trust_env=False)
        assert answer.json() == {"status": "ok"}
        assert "server" not in answer.headers
        trust = ssl.create_default_context(cafile=str(api.secrets_dir / "ca.pem"))
        ca = httpx.get(f"{api.internal_url}/internal/ca", verify=trust, trust_env=False)
        assert ca.status_code == 200
        # What is internal is not on the public listener, and the other way round.
        assert httpx.get(f"{api.public_url}/internal/ca", trust_env=False).status_code == 404
        outside = httpx.get(f"{api.internal_url}/api/v1/auth/me", verify=trust, trust_env=False)
        assert outside.status_code in (401, 403, 404)
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(_TIMEOUT_S) == 0
    assert "Traceback" not in api.log.read_text()


def test_the_public_listener_speaks_tls_with_a_certificate(database: Database, tmp_path: Path) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    certificate, key = self_signed(tmp_path, address="127.0.0.1")
    with running_api(url, tmp_path, REMOTEGPU_TLS_CERT=str(certificate), REMOTEGPU_TLS_KEY=str(key)) as api:
        trust = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.get(f"{api.public_url}/health", verify=trust, trust_env=False)
        assert answer.json() == {"status": "ok"}
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):  # nothing is said in clear
            httpx.get(api.public_url.replace("https", "http") + "/health", trust_env=False)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{api.public_url}/health", trust_env=False)
