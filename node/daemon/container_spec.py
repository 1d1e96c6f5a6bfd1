"""A tenant's container, built from its lease alone. To an environment's the Hub adds command, variables and labels, and
to a task's its order adds volumes; nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from pydantic import Field

from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, TASK_LABEL, Engine
from node.daemon.gang_networks import GangEndpoint
from scheduler.host_protocol import Lease, VolumeMount

HOME = "/home/jovyan"
METADATA = "/run/remotegpu/allocation.json"
INSIDE, OUTSIDE = "/run/remotegpu/in", "/run/remotegpu/out"
_RUNNER = "/run/remotegpu/runner"
# Isolated, and without what the image's site-packages would add to the start of each task.
_PYTHON = ("python3", "-I", "-S", "-c")
_FIND_RUNNER = f"import sys; sys.path.insert(0, {_RUNNER!r}); from task_runner"
_RUNNER_COMMAND = (*_PYTHON, f"{_FIND_RUNNER}.run import main; sys.exit(main())")
EXEC_COMMAND = (*_PYTHON, f"{_FIND_RUNNER}.exec import main; sys.exit(main(sys.argv[1:]))")
"""Runs what follows it in a task's container as the task's command is run; see `node.task_runner.exec`."""
# Enough for an image that starts as root and changes to its user; fewer than Docker's own default.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
# NVIDIA's runtime takes devices and what may be done with them from variables too: they are ours, not the Hub's.
_RESERVED_ENVIRONMENT = ("NVIDIA_", "REMOTEGPU_")
_RESERVED_LABELS = "remotegpu."
_DRIVER_CAPABILITIES = ("compute", "utility")  # CUDA and nvidia-smi: no graphics, no display
# The machine may pipe core dumps to a program of its own. Open files are as Docker has them: it can give no more.
_NO_CORE_DUMPS = Ulimit(name="core", soft=0, hard=0)
# Docker's own files, and the OOM killer's order when the whole machine runs out: tenants first, never the daemons.
_LOGS = {"max-size": "10m", "max-file": "3"}
_OOM_SCORE = 500
_NANO_PER_MILLI = 1_000_000

Text = Annotated[str, Field(max_length=131_072, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00=]+$")]


@dataclass(frozen=True, slots=True)
class HubPart:
    """What the Hub says about a container."""

    command: Annotated[tuple[Text, ...], Field(max_length=200)] = ()
    environment: Annotated[dict[Name, Text], Field(max_length=500)] = field(default_factory=dict)
    labels: Annotated[dict[Name, Text], Field(max_length=100)] = field(default_factory=dict)


class ReservedNameError(ValueError):
    """A variable or label that only the platform sets."""


def write_metadata(directory: Path, lease: Lease, *, simulated: bool) -> Path:
    """The file that tells the tenant what was rented; the container sees it read-only."""
    directory.mkdir(mode=0o755, exist_ok=True)
    path = directory / f"{lease.allocation_uid}.json"
    document = {
        "allocation_id": lease.allocation_uid,
        "simulated": simulated,
        "devices": [{"uuid": share.uuid, "milli": share.milli, "simulated": simulated} for share in lease.devices],
        "cpu_milli": lease.cpu_milli,
        "memory_bytes": lease.memory_bytes,
        "disk_bytes": lease.disk_bytes,
        "pids": lease.pids,
    }
    path.write_text(json.dumps(document, indent=1))
    path.chmod(0o644)
    return path


def container_config(
    engine: Engine,
    lease: Lease,
    hub: HubPart,
    *,
    network: str,
    metadata: Path,
    simulated: bool,
    publish_address: str,
    quota: bool,
) -> dict[str, Any]:
    """The arguments of Docker's `create_container`.

    Raises:
        ReservedNameError
    """
    _refuse_reserved(hub)
    uuids = [share.uuid for share in lease.devices]
    return {
        "image": lease.image,
        "name": lease.container_name,
        "command": list(hub.command) or None,
        "environment": dict(hub.environment) | _own_environment(lease, uuids, simulated),
        "labels": _labels(engine, lease, hub),
        "ports": list(lease.ports),
        "host_config": engine.api.create_host_config(
            **_confinement(lease, simulated=simulated, quota=quota),
            mounts=_mounts(engine, lease, metadata),
            network_mode=network,
            port_bindings={port: (publish_address, None) for port in lease.ports},
            log_config=LogConfig(type="json-file", config=_LOGS),
        ),
    }


@dataclass(frozen=True, slots=True)
class TaskPart:
    """What a task's container is given beside its lease, all of it by the host: paths are the host's own."""

    runner: Path
    inside: Path
    secrets: Path | None  # None: it has none
    outside: Path
    volumes: tuple[VolumeMount, ...] = ()
    endpoint: GangEndpoint | None = None  # in a gang's network


def task_config(
    engine: Engine, lease: Lease, task: TaskPart, *, network: str, metadata: Path, simulated: bool, quota: bool
) -> dict[str, Any]:
    """The arguments of Docker's `create_container` for a task: its first process is the runner, nothing is published.

    Its output does not pass through Docker, which would make the task wait for a reader.
    """
    return {
        "image": lease.image,
        "name": lease.container_name,
        "entrypoint": list(_RUNNER_COMMAND),
        "environment": _own_environment(lease, [share.uuid for share in lease.devices], simulated),
        "labels": {**_labels(engine, lease, HubPart()), TASK_LABEL: ""},
        "host_config": engine.api.create_host_config(
            **_confinement(lease, simulated=simulated, quota=quota),
            mounts=[*_mounts(engine, lease, metadata), *_task_mounts(engine, task)],
            network_mode=network,
            extra_hosts=task.endpoint.names if task.endpoint is not None else None,
            log_config=LogConfig(type="none"),
        ),
        **_networking(engine, task.endpoint),
    }


def _networking(engine: Engine, endpoint: GangEndpoint | None) -> dict[str, Any]:
    """Its address is fixed: the others know it before the container is there."""
    if endpoint is None:
        return {}
    api: Any = engine.api  # its types say one endpoint where it takes several by their networks
    configured = {endpoint.network: api.create_endpoint_config(ipv4_address=endpoint.address)}
    return {"hostname": endpoint.name, "networking_config": api.create_networking_config(configured)}


def _task_mounts(engine: Engine, task: TaskPart) -> list[Mount]:
    mounts = [
        Mount(_RUNNER, str(task.runner), type="bind", read_only=True),
        Mount(INSIDE, str(task.inside), type="bind", read_only=True),
        Mount(OUTSIDE, str(task.outside), type="bind"),
    ]
    if task.secrets is not None:
        mounts.append(Mount(f"{INSIDE}/secrets", str(task.secrets), type="bind", read_only=True))
    labels = engine.labels()
    return mounts + [Mount(each.path, each.volume, type="volume", labels=labels) for each in task.volumes]


def _confinement(lease: Lease, *, simulated: bool, quota: bool) -> dict[str, Any]:
    """What holds for every container of a tenant."""
    return {
        "init": True,
        "privileged": False,
        "ipc_mode": "private",
        **_limits(lease, quota=quota),
        "cap_drop": ["ALL"],
        "cap_add": _CAPABILITIES,
        "security_opt": ["no-new-privileges"],
        "device_requests": _devices([share.uuid for share in lease.devices], simulated),
    }


def _labels(engine: Engine, lease: Lease, hub: HubPart) -> dict[str, str]:
    """Those of the platform itself win over others of the same name."""
    own = {ALLOCATION_LABEL: lease.allocation_uid, GENERATION_LABEL: str(lease.generation)}
    return {**hub.labels, **lease.labels, **engine.labels(), **own}


def _limits(lease: Lease, *, quota: bool) -> dict[str, Any]:
    return {
        "nano_cpus": lease.cpu_milli * _NANO_PER_MILLI,
        "mem_limit": lease.memory_bytes,
        "memswap_limit": lease.memory_bytes,  # memory and swap together: none of it is swap
        "shm_size": shared_memory_bytes(lease),
        "oom_score_adj": _OOM_SCORE,
        "ulimits": [_NO_CORE_DUMPS],
        "pids_limit": lease.pids,
        "storage_opt": {"size": str(lease.disk_bytes)} if quota else None,
    }


def _own_environment(lease: Lease, uuids: Sequence[str], simulated: bool) -> dict[str, str]:
    return {
        "REMOTEGPU_ALLOCATION_ID": lease.allocation_uid,
        "REMOTEGPU_DEVICES": ",".join(uuids),
        "NVIDIA_VISIBLE_DEVICES": "void" if simulated or not uuids else ",".join(uuids),
        "NVIDIA_DRIVER_CAPABILITIES": ",".join(_DRIVER_CAPABILITIES),
        # What a Ray that is started in there finds: by itself it would find no simulated GPU.
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": whole_cpus(lease), "GPU": len(uuids)}),
    }


def whole_cpus(lease: Lease) -> int:
    """Ray takes no part of a core."""
    return max(1, lease.cpu_milli // 1000)


def shared_memory_bytes(lease: Lease) -> int:
    """/dev/shm, part of the memory: data loaders need more than Docker's 64 MB."""
    return lease.memory_bytes // 2 if lease.shm_bytes is None else lease.shm_bytes


def _devices(uuids: list[str], simulated: bool) -> list[DeviceRequest] | None:
    if simulated or not uuids:
        return None
    return [DeviceRequest(driver="nvidia", device_ids=uuids, capabilities=[["gpu", *_DRIVER_CAPABILITIES]])]


def _mounts(engine: Engine, lease: Lease, metadata: Path) -> list[Mount]:
    mounts = [Mount(METADATA, str(metadata), type="bind", read_only=True)]
    if lease.home_volume:
        mounts.append(Mount(HOME, lease.home_volume, type="volume", labels=engine.labels()))
    return mounts


def _refuse_reserved(hub: HubPart) -> None:
    taken = sorted(name for name in hub.environment if name.startswith(_RESERVED_ENVIRONMENT))
    taken += sorted(label for label in hub.labels if label.startswith(_RESERVED_LABELS))
    if taken:
        raise ReservedNameError(f"only the platform sets {', '.join(taken)}")
