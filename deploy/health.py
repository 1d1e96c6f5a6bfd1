"""The health of each part, as it answers when asked."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from deploy.engine import Engine
from deploy.instance import Instance
from deploy.programs import database_url, hub_database_url

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class PartHealth:
    """`detail` says what it answered, or why it did not."""

    name: str
    healthy: bool
    detail: str


class UnhealthyError(RuntimeError):
    """A part answered, but not well."""


def check_all(instance: Instance) -> list[PartHealth]:
    """Ask every part, all at once; no answer takes longer than a few seconds."""
    questions = health_checks(instance)
    with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(lambda item: ask(item[0], item[1]), questions.items()))


def ask(name: str, question: Callable[[], str]) -> PartHealth:
    try:
        return PartHealth(name, True, question())
    except (
        OSError,
        ValueError,
        KeyError,
        UnhealthyError,
        psycopg.Error,
        http.client.HTTPException,
    ) as error:
        lines = str(error).strip().splitlines()
        return PartHealth(name, False, lines[0] if lines else type(error).__name__)


def health_checks(instance: Instance) -> dict[str, Callable[[], str]]:
    """What to ask of each part, in the order in which they start."""
    checks: dict[str, Callable[[], str]] = {
        "docker": lambda: docker(instance.docker_host),
        "postgres": lambda: database(database_url(instance)),
        "postgres (hub)": lambda: database(hub_database_url(instance)),
        "ray": lambda: ray(instance),
        "api": lambda: answers(f"{instance.scheme}://127.0.0.1:{instance.port}/health"),
        "api (internal)": lambda: answers(f"{instance.internal_url}/internal/ca", ca=instance.secrets / "ca.pem"),
    }
    for name in instance.host_names():
        checks[f"host {name}"] = lambda socket=instance.hosts / name / "daemon.sock": host(socket)  # type: ignore[misc]
    checks["controller"] = lambda: controller(instance.hostlink)
    checks["proxy"] = lambda: proxy(instance)
    checks["hub"] = lambda: answers(f"http://127.0.0.1:{instance.hub_api_port}/hub/health")
    return checks


def docker(host: str) -> str:
    version = Engine(host).version()
    if version is None:
        raise UnhealthyError(f"no answer at {host}")
    return f"Docker Engine {version}"


def database(url: str) -> str:
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1), connect_timeout=3) as connection:
        row = connection.execute(
            "select current_setting('server_version'), pg_database_size(current_database())"
        ).fetchone()
    if row is None:
        raise UnhealthyError("the server answered nothing")
    return f"PostgreSQL {row[0]}, {row[1] / 2**20:.0f} MB"


def answers(url: str, *, ca: Path | None = None) -> str:
    """Ask for 200 at `url`. Our own public certificate is not checked here: it is for another name than 127.0.0.1."""
    _get(url, ca=ca)
    return url


def ray(instance: Instance) -> str:
    """Ask the head for its nodes, through the dashboard's own API; of an external head only the port is known."""
    if instance.ray_address is not None:
        name, _, port = instance.ray_address.rpartition(":")
        socket.create_connection((name, int(port)), timeout=_TIMEOUT_S).close()
        return f"a head listens at {instance.ray_address}"
    token = (instance.secrets / "ray_token").read_text().strip()
    url = f"http://127.0.0.1:{instance.ray_dashboard_port}/nodes?view=summary"
    nodes = json.loads(_get(url, authorization=f"Bearer {token}"))["data"]["summary"]
    alive = sum(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes)
    if alive == 0:
        raise UnhealthyError("no node is alive, not even the head's own")
    return f"{alive} nodes alive at {instance.ray_cluster_address}"


def proxy(instance: Instance) -> str:
    token = (instance.secrets / "hub_proxy_token").read_text().strip()
    routes = json.loads(_get(f"http://127.0.0.1:{instance.proxy_api_port}/api/routes", authorization=f"token {token}"))
    return f"{len(routes)} routes at {instance.hub_url}"


def controller(hostlink: Path) -> str:
    """Ask the controller of this machine whether it leads."""
    status, body = over_socket(hostlink, "GET", "/metrics")
    if status != 200:
        raise UnhealthyError(f"it answered {status}")
    leads = any(line.startswith(b"remotegpu_controller_leader 1") for line in body.splitlines())
    return "leads" if leads else "stands by"


def host(daemon_socket: Path) -> str:
    """Ask a host's daemon; its own problems count."""
    body = call_daemon(daemon_socket, "health", {})
    if not body["docker"]:
        raise UnhealthyError("its Docker Engine does not answer")
    if body["problems"]:
        raise UnhealthyError("; ".join(body["problems"]))
    raylet = body.get("raylet") or {}
    if raylet.get("pid") is None:
        raise UnhealthyError(f"its raylet does not run (state {raylet.get('state')})")
    return f"{body['leases']} leases, raylet {raylet['pid']}, {body['spool_backlog']} usage windows to ship"


def call_daemon(path: Path, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """An operation of a host daemon; see docs/reference/interfaces.md.

    Raises:
        UnhealthyError: it refused.
        OSError, http.client.HTTPException: it can't be reached.
    """
    status, content = over_socket(path, "POST", f"/v1/{operation}", json.dumps(body))
    if status != 200:
        raise UnhealthyError(f"the daemon answered {status} to {operation}: {content[:200].decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(content)
    return answer


def over_socket(path: Path, method: str, target: str, body: str | None = None) -> tuple[int, bytes]:
    """One HTTP request over a Unix socket: status and body.

    Raises:
        OSError, http.client.HTTPException: it can't be reached.
    """
    with contextlib.closing(_UnixConnection(path)) as connection:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read()


def _get(url: str, *, authorization: str | None = None, ca: Path | None = None) -> bytes:
    """The body of a 200. `up` asks many times a second, so nothing is set up that is not used, as httpx would."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=str(ca)) if ca else ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", f"{parts.path}?{parts.query}", headers=_authorized(authorization))
        reply = connection.getresponse()
        body = reply.read()
    if reply.status != 200:
        raise UnhealthyError(f"{url} answered {reply.status}")
    return body


def _authorized(authorization: str | None) -> dict[str, str]:
    return {"Authorization": authorization} if authorization else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
