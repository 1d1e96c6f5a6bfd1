"""What a lease becomes at Docker: exactly its devices and limits, and nothing that the Hub could widen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from node.daemon.container_spec import HubPart, ReservedNameError, container_config, write_metadata
from node.daemon.engine import Engine
from scheduler.host_protocol import DeviceShare, Lease

GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "MIG-66666666-7777-8888-9999-000000000000")
LEASE = Lease(
    allocation_uid="a",
    generation=3,
    customer_uid="c",
    devices=(DeviceShare(GPUS[0], 1000), DeviceShare(GPUS[1], 500)),
    cpu_milli=2500,
    memory_bytes=8 * 2**30,
    disk_bytes=10 * 2**30,
    pids=512,
    run_until_ms=0,
    image="image:1",
    container_name="rg-lab",
    home_volume="rg-home-1",
    labels={"remotegpu.host": "another", "team": "x"},
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    # No engine is asked: the specification is made of values alone.
    engine = Engine.__new__(Engine)
    engine.host_id = "host-1"
    engine.api = docker.APIClient(version="1.41")
    yield engine
    engine.api.close()


def config(engine: Engine, lease: Lease = LEASE, hub: HubPart | None = None, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"network": "rgnet0001", "metadata": Path("/m.json"), "simulated": False}
    given |= {"publish_address": "10.0.0.7", "quota": False, **options}
    return container_config(engine, lease, hub or HubPart(), **given)


def test_devices_are_requested_by_uuid_and_nothing_more(engine: Engine) -> None:
    limits = config(engine)["host_config"]
    assert limits["DeviceRequests"] == [
        {
            "Driver": "nvidia",
            "Count": 0,
            "DeviceIDs": list(GPUS),
            "Capabilities": [["gpu", "compute", "utility"]],
            "Options": {},
        }
    ]
    assert "Devices" not in limits and "DeviceCgroupRules" not in limits


@pytest.mark.parametrize("simulated", [False, True])
def test_without_devices_the_runtime_gives_none(engine: Engine, simulated: bool) -> None:
    devices = LEASE.devices if simulated else ()
    made = config(engine, Lease(**{**fields(LEASE), "devices": devices}), simulated=simulated)
    assert not made["host_config"].get("DeviceRequests")
    assert made["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"  # an image that says `all` must not get all


@pytest.mark.parametrize(("cpu_milli", "cpus"), [(2500, 2), (300, 1)])
def test_a_ray_that_is_started_inside_finds_what_was_rented(engine: Engine, cpu_milli: int, cpus: int) -> None:
    made = config(engine, replace(LEASE, cpu_milli=cpu_milli), simulated=True)
    assert json.loads(made["environment"]["RAY_OVERRIDE_RESOURCES"]) == {"CPU": cpus, "GPU": 2}


def test_limits(engine: Engine) -> None:
    limits = config(engine)["host_config"]
    assert limits["NanoCpus"] == 2_500_000_000
    assert limits["Memory"] == limits["MemorySwap"] == 8 * 2**30
    assert limits["ShmSize"] == 4 * 2**30
    assert limits["PidsLimit"] == 512
    assert [dict(each) for each in limits["Ulimits"]] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert limits["OomScoreAdj"] > 0
    assert "StorageOpt" not in limits
    assert config(engine, quota=True)["host_config"]["StorageOpt"] == {"size": str(10 * 2**30)}


def test_no_privilege(engine: Engine) -> None:
    limits = config(engine)["host_config"]
    assert not limits.get("Privileged")
    assert limits["CapDrop"] == ["ALL"]
    assert set(limits["CapAdd"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"}
    assert limits["SecurityOpt"] == ["no-new-privileges"]
    assert limits["NetworkMode"] == "rgnet0001" and limits["IpcMode"] == "private"
    for name in ("PidMode", "UTSMode", "UsernsMode", "CgroupnsMode", "VolumesFrom", "Binds", "Runtime"):
        assert not limits.get(name)
    sources = {mount["Target"]: (mount["Type"], mount["Source"], mount["ReadOnly"]) for mount in limits["Mounts"]}
    assert sources == {
        "/home/jovyan": ("volume", "rg-home-1", False),
        "/run/remotegpu/allocation.json": ("bind", "/m.json", True),
    }
    assert limits["PortBindings"] == {"8888/tcp": [{"HostIp": "10.0.0.7", "HostPort": ""}]}


def test_labels_are_the_hosts_whatever_lease_or_hub_say(engine: Engine) -> None:
    labels = config(engine, hub=HubPart(labels={"team": "y", "other": "z"}))["labels"]
    assert labels == {
        "team": "x",
        "other": "z",
        "remotegpu.host": "host-1",
        "remotegpu.allocation": "a",
        "remotegpu.generation": "3",
    }


@pytest.mark.parametrize(
    "hub",
    [
        HubPart(environment={"NVIDIA_VISIBLE_DEVICES": "all"}),
        HubPart(environment={"NVIDIA_DRIVER_CAPABILITIES": "all"}),
        HubPart(environment={"NVIDIA_MIG_CONFIG_DEVICES": "all"}),
        HubPart(environment={"REMOTEGPU_DEVICES": "x"}),
        HubPart(labels={"remotegpu.host": "another"}),
    ],
)
def test_the_hub_can_not_take_our_names(engine: Engine, hub: HubPart) -> None:
    with pytest.raises(ReservedNameError):
        config(engine, hub=hub)


def test_metadata_names_the_devices(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "m", LEASE, simulated=True)
    document = json.loads(path.read_text())
    assert document["devices"] == [
        {"uuid": GPUS[0], "milli": 1000, "simulated": True},
        {"uuid": GPUS[1], "milli": 500, "simulated": True},
    ]
    assert path.stat().st_mode & 0o777 == 0o644


def fields(lease: Lease) -> dict[str, Any]:
    return {name: getattr(lease, name) for name in lease.__slots__}
