"""Disk limits. Docker enforces them itself on XFS with project quotas; elsewhere a watcher ends who goes over."""

import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from node.daemon.engine import ALLOCATION_LABEL, Engine, Json
from node.daemon.leases import HeldLease

log = logging.getLogger(__name__)

PROJECT_QUOTA, WATCHER = "project_quota", "watcher"
_INTERVAL_S = 15.0
_TIMEOUT_S = 10


def limit_kind(engine: Engine) -> str:
    """How a container's writable layer is limited here."""
    info = engine.api.info()
    status = dict(info.get("DriverStatus") or [])
    root = Path(info["DockerRootDir"])
    quota = info["Driver"] == "overlay2" and status.get("Backing Filesystem") == "xfs" and _has_project_quota(root)
    return PROJECT_QUOTA if quota else WATCHER


def _has_project_quota(root: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    below = [fields for fields in mounts if root.is_relative_to(fields[1])]
    if not below:
        return False
    options = max(below, key=lambda fields: len(fields[1]))[3].split(",")
    return "prjquota" in options or "pquota" in options


class DiskWatch:
    """Counts each container's writable layer and ends its lease's containers over the limit."""

    def __init__(self, on_exceeded: Callable[[HeldLease], None]) -> None:
        self._on_exceeded = on_exceeded
        self._next = 0.0

    def check(self, inspected: Sequence[Json], held: Mapping[str, HeldLease]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _INTERVAL_S
        for details in inspected:
            lease = held.get((details["Config"]["Labels"] or {}).get(ALLOCATION_LABEL, ""))
            upper = (details.get("GraphDriver", {}).get("Data") or {}).get("UpperDir")
            if lease is None or not upper:
                continue
            used = _used_bytes(Path(upper))
            if used is not None and used > lease.lease.disk_bytes:
                log.warning("allocation %s wrote %d bytes, over its limit", lease.lease.allocation_uid, used)
                self._on_exceeded(lease)


def _used_bytes(path: Path) -> int | None:
    try:
        done = subprocess.run(
            ["du", "-s", "-x", "-B1", str(path)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout.split()[0]) if done.stdout else None
