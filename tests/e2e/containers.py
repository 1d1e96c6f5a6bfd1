"""What really runs, as the Docker engine tells it: not what the platform says of it."""

import json
import subprocess
from datetime import UTC, datetime
from typing import Any


def docker(*arguments: str) -> str:
    """Standard output of the docker command."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def containers_of(environment: dict[str, Any]) -> list[str]:
    """Ids of the environment's containers, of whatever generation, running or not."""
    return docker("ps", "-aq", "--no-trunc", "--filter", f"name=rg-env-{environment['id']}").split()


def container_of(environment: dict[str, Any]) -> str:
    (container,) = containers_of(environment)
    return container


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def inside(container: str, *command: str) -> str:
    """Standard output of a command run in the container as its user."""
    return docker("exec", "-u", "jovyan", container, *command)


def exit_time(container: str, *, since: datetime) -> datetime:
    """When the container's process ended, from the engine's events: the container itself may be removed already."""
    events = docker(
        "events", "--since", f"{since.timestamp():.6f}", "--until", f"{datetime.now(UTC).timestamp():.6f}",
        "--filter", f"container={container}", "--filter", "event=die", "--format", "{{.TimeNano}}",
    )  # fmt: skip
    return datetime.fromtimestamp(int(events.split()[-1]) / 1e9, UTC)
