"""DockerSpawner's calls of the Docker API as the platform's typed operations, and Docker's errors made again.

DockerSpawner expects the methods of `docker.APIClient`. Which host, container, image, name, mounts, network, limits and
devices a call concerns is the lease's business: such arguments are left out, never sent.
"""

import io
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import requests
from docker.errors import APIError, NotFound

from hub.platform_client import Json, PlatformError

STOP_GRACE_S = 10
LOG_LINES = 20


class UnsupportedDockerCall(NotImplementedError):
    """A call that the platform has no operation for. None is ever sent to a Docker engine directly."""

    def __init__(self, method: str) -> None:
        super().__init__(f"the Docker call {method!r} has no operation on the platform's hosts")


class HostUnreachable(Exception):
    """The container's host does not answer: nothing is known about the container."""


def typed_operation(method: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[str, Json]:
    """The operation and its arguments for a call `docker.APIClient.<method>(*arguments, **options)`.

    Any: what a Docker client takes.

    Raises:
        UnsupportedDockerCall: there is no such operation.
    """
    match method:
        case "inspect_container" | "inspect_image" | "start" | "port" | "remove_container":
            return method, {}
        case "create_container":
            return method, {
                "command": list(options["command"]),
                "environment": {key: str(value) for key, value in options["environment"].items()},
                "labels": dict(options.get("labels") or {}),
            }
        case "stop":
            return method, {"timeout": int(options.get("timeout") or STOP_GRACE_S)}
        case "logs":
            return method, {"tail": int(options.get("tail") or LOG_LINES)}
        case _:
            raise UnsupportedDockerCall(method)


def docker_error(error: PlatformError) -> Exception:
    """What a Docker client on the host itself would have raised, or HostUnreachable, or `error` if it is neither."""
    if error.code == "docker_error":
        status = int(error.problem.get("docker_status") or HTTPStatus.INTERNAL_SERVER_ERROR)
        return _api_error(status, str(error.problem.get("docker_message") or error.detail))
    if error.code == "host_unreachable":
        return HostUnreachable(error.detail)
    if error.code == "lease_ended" or error.status == HTTPStatus.NOT_FOUND:
        # Without a lease there is no container: it is ended with it, by its host if need be.
        return _api_error(HTTPStatus.NOT_FOUND, error.detail)
    return error


def _api_error(status: int, message: str) -> APIError:
    # docker.errors read the status and the text from a response of `requests`; so does DockerSpawner.
    response = requests.Response()
    response.status_code = status
    response.reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    response.headers["Content-Type"] = "application/json"
    response.raw = io.BytesIO(json.dumps({"message": message}).encode())
    kind = NotFound if status == HTTPStatus.NOT_FOUND else APIError
    return kind(f"{status} {response.reason}: {message}", response=response, explanation=message)
