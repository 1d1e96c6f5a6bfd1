"""The health of each part, as it answers when asked."""

import concurrent.futures
import http.client
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
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
        httpx.HTTPError,
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
    checks["controller"] = lambda: listens(instance.hostlink)
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
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else False
    with httpx.Client(verify=verify, timeout=_TIMEOUT_S, trust_env=False) as client:
        reply = client.get(url)
    if reply.status_code != 200:
        raise UnhealthyError(f"{url} answered {reply.status_code}")
    return url


def ray(instance: Instance) -> str:
    """Ask the head for its nodes, through the dashboard's own API."""
    token = (instance.secrets / "ray_token").read_text().strip()
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        reply = client.get(f"http://127.0.0.1:{instance.ray_dashboard_port}/nodes", params={"view": "summary"})
    if reply.status_code != 200:
        raise UnhealthyError(f"the dashboard answered {reply.status_code}")
    nodes = reply.json()["data"]["summary"]
    alive = sum(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes)
    if alive == 0:
        raise UnhealthyError("no node is alive, not even the head's own")
    return f"{alive} nodes alive at {instance.ray_cluster_address}"


def proxy(instance: Instance) -> str:
    token = (instance.secrets / "hub_proxy_token").read_text().strip()
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers={"Authorization": f"token {token}"}) as client:
        reply = client.get(f"http://127.0.0.1:{instance.proxy_api_port}/api/routes")
    if reply.status_code != 200:
        raise UnhealthyError(f"its API answered {reply.status_code}")
    return f"{len(reply.json())} routes at {instance.hub_url}"


def listens(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(path))
    return str(path)


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
        OSError, httpx.HTTPError: it can't be reached.
    """
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, timeout=_TIMEOUT_S, base_url="http://daemon") as client:
        reply = client.post(f"/v1/{operation}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    if reply.status_code != 200:
        raise UnhealthyError(f"the daemon answered {reply.status_code} to {operation}: {reply.text[:200]}")
    answer: dict[str, Any] = reply.json()
    return answer
