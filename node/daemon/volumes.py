"""Home volumes and those of tasks: kept when containers go, deleted only when the platform says so."""

from pathlib import Path

import docker

from node.daemon.engine import HOST_LABEL, Engine


class ForeignVolumeError(Exception):
    """A volume of that name belongs to somebody else; it is not touched."""


class Volumes:
    """With `quota`, Docker itself keeps a volume within the size that it was made with."""

    def __init__(self, engine: Engine, *, quota: bool) -> None:
        self._engine, self._quota = engine, quota

    def ensure(self, name: str, size_bytes: int, *, for_any_user: bool = False) -> None:
        """`for_any_user`: images run as different users, and all of its workspace's may write to it.

        Raises: ForeignVolumeError, OSError.
        """
        options = {"size": str(size_bytes)} if self._quota else None
        # An existing one is answered as it is.
        made = self._engine.api.create_volume(name, driver="local", driver_opts=options, labels=self._engine.labels())
        self._check(name, made.get("Labels"))
        root = Path(made["Mountpoint"])
        if for_any_user and root.exists():  # on an engine of another machine it is out of reach
            root.chmod(0o1777)

    def delete(self, name: str) -> None:
        """Idempotent. Raises: ForeignVolumeError, docker.errors.APIError (in use)."""
        try:
            found = self._engine.api.inspect_volume(name)
        except docker.errors.NotFound:
            return
        self._check(name, found.get("Labels"))
        self._engine.api.remove_volume(name)

    def _check(self, name: str, labels: dict[str, str] | None) -> None:
        if (labels or {}).get(HOST_LABEL) != self._engine.host_id:
            raise ForeignVolumeError(f"volume {name} is not this host's")
