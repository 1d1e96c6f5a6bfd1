"""Tasks for daemon tests: a lease with the order that the platform holds for it, and what was told of the attempt."""

import uuid
from typing import Any

from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for


class Tasks:
    def __init__(self, host: DaemonHost, platform: FakePlatform) -> None:
        self._host, self._platform = host, platform

    def lease(self, command: str, *, image: str | None = None, memory_mib: int = 128, **order: Any) -> Any:
        """A lease for which the platform has an order."""
        lease = self._host.lease() | {"kind": "task", "ports": [], "memory_bytes": memory_mib * 2**20}
        if image is not None:
            lease["image"] = image
        self._platform.orders[lease["allocation_uid"]] = {
            "task_uid": str(uuid.uuid4()),
            "attempt_uid": str(uuid.uuid4()),
            "number": 1,
            "command": command,
            "setup": None,
            "environment": {},
            "secrets": {},
            "archives": [],
            "mounts": [],
            "timeout_s": None,
            "signal": "SIGTERM",
            "grace_s": 30,
            **order,
        }
        return lease

    def grant(self, lease: Any) -> None:
        assert self._host.call("grant_lease", **lease) == (200, {})

    def run(self, command: str, **order: Any) -> Any:
        lease = self.lease(command, **order)
        self.grant(lease)
        return lease

    def ended(self, lease: Any, timeout_s: float = 20) -> Any:
        """Its last report."""
        return wait_for(lambda: self._last(lease, "ended"), timeout_s=timeout_s)

    def running(self, lease: Any) -> Any:
        return wait_for(lambda: self._last(lease, "running"))

    def _last(self, lease: Any, phase: str) -> Any:
        reports = self._platform.reports(lease["allocation_uid"])
        return reports[-1] if reports and reports[-1]["phase"] == phase else None
