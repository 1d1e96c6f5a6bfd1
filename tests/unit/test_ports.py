"""Ports that an installation would listen on: taken ones are found before anything starts."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.instance import RAY_PORTS, Instance
from deploy.ports import conflicts, ensure_free
from deploy.progress import StepError
from deploy.start import start_everything


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def installation(data: Path, **ports: int) -> Instance:
    """One whose ports nobody listens on: the kernel gives out higher ones by itself."""
    names = ("port", "internal_port", "hub_port", "hub_api_port", "proxy_api_port", "ray_port", "ray_dashboard_port")
    free = dict(zip(names, range(11_000, 11_000 + len(names)), strict=True)) | {"ray_base_port": 11_100}
    return Instance(data, **(free | ports))


def test_free_ports_are_no_conflict(tmp_path: Path) -> None:
    assert conflicts(installation(tmp_path)) == []
    ensure_free(installation(tmp_path))


def test_a_taken_port_is_named_with_its_holder_and_the_option(tmp_path: Path, taken: int) -> None:
    with pytest.raises(StepError) as raised:
        ensure_free(installation(tmp_path, hub_port=taken))
    (line,) = str(raised.value).splitlines()
    assert f"port {taken} (JupyterHub's proxy) is held by process" in line and "python" in line
    assert "--hub-port" in line


def test_a_port_in_the_middle_of_rays_block_is_found_once(tmp_path: Path, taken: int) -> None:
    (found,) = conflicts(installation(tmp_path, ray_base_port=taken - RAY_PORTS + 1))
    assert found.option == "--ray-base-port"
    assert found.port <= taken, "the first of the block that anybody listens on"


def test_a_port_wanted_twice_is_a_conflict(tmp_path: Path) -> None:
    (found,) = conflicts(installation(tmp_path, hub_port=11_000))
    assert str(found) == "port 11000 (JupyterHub's proxy) is held by this installation's API"


def test_an_external_ray_has_no_ports_here(tmp_path: Path, taken: int) -> None:
    external = Instance(tmp_path, ray_address="ray:6379", ray_port=taken, ray_base_port=taken)
    assert not {option for _, _, option in external.listening_ports()} & {"--ray-port", "--ray-base-port"}


def test_up_starts_nothing_when_a_port_is_taken(tmp_path: Path, taken: int) -> None:
    with pytest.raises(StepError, match=str(taken)):
        start_everything(installation(tmp_path / "data", port=taken))
    assert not (tmp_path / "data").exists()
