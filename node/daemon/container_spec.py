"""A tenant's container, built from its lease alone. The Hub adds command, environment and labels, nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from pydantic import Field

from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, Engine
from scheduler.host_protocol import Lease

HOME = "/home/jovyan"
METADATA = "/run/remotegpu/allocation.json"
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
            init=True,
            privileged=False,
            ipc_mode="private",
            **_limits(lease, quota=quota),
            cap_drop=["ALL"],
            cap_add=_CAPABILITIES,
            security_opt=["no-new-privileges"],
            device_requests=_devices(uuids, simulated),
            mounts=_mounts(engine, lease, metadata),
            network_mode=network,
            port_bindings={port: (publish_address, None) for port in lease.ports},
            log_config=LogConfig(type="json-file", config=_LOGS),
        ),
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
        "shm_size": lease.memory_bytes // 2,  # part of that memory; data loaders need more than Docker's 64 MB
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
        # What a Ray that is started in there finds: by itself it takes no part of a core, and no simulated GPU.
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": max(1, lease.cpu_milli // 1000), "GPU": len(uuids)}),
    }


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
