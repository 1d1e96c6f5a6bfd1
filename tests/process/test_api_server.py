"""The API's process: both listeners from one command, and its end."""

import signal
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.allocations.planner import AT_ONCE, WAITING
from api.db import Database
from api.settings import Settings
from tests.controller_socket import answering
from tests.process.api_process import running_api
from tests.process.fuzz_world import make_world
from tests.process.self_signed import self_signed
from tests.waiting import wait_for

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


def test_what_tenants_ask_for_keeps_no_heartbeat_waiting(database: Database, tmp_path: Path, scratch: Path) -> None:
    """More questions at once than there are threads, to a controller that does not answer."""
    url = database.engine.url.render_as_string(hide_password=False)
    socket = scratch / "busy.sock"
    with (
        answering(socket) as controller,
        running_api(url, tmp_path, REMOTEGPU_HOSTLINK_SOCKET=str(socket)) as api,
        ThreadPoolExecutor(60) as pool,
    ):
        world = make_world(database, Settings(database_url=url, secrets_dir=api.secrets_dir), api.public_url)
        controller.hangs = threading.Event()
        question: dict[str, Any] = {
            "json": {"gpus": 1, "gpu_model": "A100"},
            "headers": world.headers["acme-member"],
            "timeout": 60,
        }
        plan = partial(httpx.post, f"{api.public_url}/api/v1/customer/allocations/plan", trust_env=False, **question)
        try:
            asked = [pool.submit(plan) for _ in range(60)]
            refused = 60 - AT_ONCE - WAITING
            wait_for(
                lambda: (len(controller.asked), sum(each.done() for each in asked)) == (AT_ONCE, refused),
                timeout_s=30, what="as many questions as may wait",
            )  # fmt: skip
            trust = ssl.create_default_context(cafile=str(api.secrets_dir / "ca.pem"))
            trust.load_cert_chain(api.secrets_dir / "hub.pem", api.secrets_dir / "hub.key")
            answer = httpx.get(
                f"{api.internal_url}/internal/hub/options?username=acme-member",
                verify=trust,
                trust_env=False,
                timeout=5,
            )
            assert answer.status_code == 200
            assert not all(each.done() for each in asked)
        finally:
            controller.hangs.set()


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
