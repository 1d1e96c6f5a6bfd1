"""DockerSpawner's calls as typed operations, and Docker's errors made again."""

import inspect
import re

import pytest
from docker.errors import APIError, NotFound
from dockerspawner import DockerSpawner

from hub.docker_calls import HostUnreachable, UnsupportedDockerCall, docker_error, typed_operation
from hub.platform_client import PlatformError


def test_only_what_the_hub_decides_is_sent() -> None:
    operation, arguments = typed_operation(
        "create_container", (),
        {"image": "evil", "name": "other", "volumes": ["/"], "host_config": {"Privileged": True}, "ports": {},
         "command": ("a", "b"), "environment": {"A": 1}},
    )  # fmt: skip
    assert operation == "create_container"
    assert arguments == {"command": ["a", "b"], "environment": {"A": "1"}, "labels": {}}


def test_a_container_is_the_leases_whatever_name_is_asked_for() -> None:
    for method in ("inspect_container", "inspect_image", "start", "port", "remove_container"):
        assert typed_operation(method, ("another",), {"v": True}) == (method, {})


def test_stopping_has_a_grace() -> None:
    assert typed_operation("stop", ("c",), {}) == ("stop", {"timeout": 10})


@pytest.mark.parametrize("method", ["exec_create", "exec_start", "pull", "create_volume", "put_archive", "containers"])
def test_other_calls_are_refused(method: str) -> None:
    with pytest.raises(UnsupportedDockerCall, match=method):
        typed_operation(method, (), {})


def test_every_call_on_the_way_of_a_start_and_stop_is_known() -> None:
    """A new version of DockerSpawner that makes other calls there must be noticed."""
    for name in ("get_command", "start_object", "stop_object", "remove_object"):
        source = inspect.getsource(getattr(DockerSpawner, name))
        for method in re.findall(r"self\.docker\(\s*[\"'](\w+)[\"']", source):
            method = "remove_container" if method == "remove_" else method
            assert typed_operation(method, (), {})[0] == method


def _error(status: int, code: str, **extra: object) -> PlatformError:
    return PlatformError(status, code, "detail", {"code": code} | extra)


def test_docker_errors_keep_status_and_text() -> None:
    error = docker_error(_error(424, "docker_error", docker_status=409, docker_message="name in use"))
    assert isinstance(error, APIError)
    assert (error.status_code, error.response.status_code, error.explanation) == (409, 409, "name in use")
    assert error.response.json() == {"message": "name in use"}


def test_docker_not_found_is_not_found() -> None:
    assert isinstance(docker_error(_error(424, "docker_error", docker_status=404)), NotFound)


def test_an_engine_error_is_not_an_absent_container() -> None:
    error = docker_error(_error(424, "docker_error", docker_status=500))
    assert isinstance(error, APIError) and not isinstance(error, NotFound)


def test_an_ended_lease_has_no_container() -> None:
    assert isinstance(docker_error(_error(409, "lease_ended")), NotFound)


def test_an_unreachable_host_is_told_apart() -> None:
    assert isinstance(docker_error(_error(503, "host_unreachable")), HostUnreachable)


def test_other_refusals_stay_what_they_are() -> None:
    refused = _error(403, "forbidden")
    assert docker_error(refused) is refused
