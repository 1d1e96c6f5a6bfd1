"""The typed container operations that the Hub may ask for, each on its lease's own container alone."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
from pydantic import TypeAdapter, ValidationError

from node.daemon.container_spec import HubPart, container_config, write_metadata
from node.daemon.engine import ALLOCATION_LABEL, GENERATION_LABEL, HOST_LABEL, Engine, Json
from node.daemon.leases import HeldLease
from scheduler.host_protocol import Lease

_HUB_PART = TypeAdapter(HubPart)
_MAX_GRACE_S = 120
_MAX_LINES = 10_000


class BadArgumentsError(ValueError):
    """The operation does not exist or does not take these arguments."""


class Containers:
    def __init__(self, engine: Engine, metadata: Path, *, simulated: bool, publish_address: str, quota: bool) -> None:
        self._engine, self._metadata = engine, metadata
        self._simulated, self._publish_address, self._quota = simulated, publish_address, quota
        self._pulling = threading.Lock()
        self._operations: Mapping[str, Callable[[HeldLease, Json], Any]] = {
            "inspect_container": lambda held, _: self.inspect(held.lease),
            "inspect_image": lambda held, _: self._engine.api.inspect_image(held.lease.image),  # type: ignore[no-untyped-call]
            "create_container": self._create,
            "start": lambda held, _: self._engine.api.start(held.lease.container_name),
            "stop": self._stop,
            "port": self._port,
            "logs": self._logs,
        }

    def call(self, operation: str, held: HeldLease, arguments: Json) -> Any:
        """Docker's own JSON.

        Raises:
            BadArgumentsError
            docker.errors.APIError: what Docker said, also when a container of that name is not the lease's.
        """
        run = self._operations.get(operation)
        if run is None:
            raise BadArgumentsError(f"there is no operation {operation!r}")
        if operation in ("start", "stop", "logs", "port"):
            self.inspect(held.lease)
        return run(held, arguments)

    def inspect(self, lease: Lease) -> Json:
        """Raises: docker.errors.NotFound, also when the container of that name is somebody else's."""
        found: Json = self._engine.api.inspect_container(lease.container_name)
        labels = found["Config"]["Labels"] or {}
        ours = {
            HOST_LABEL: self._engine.host_id,
            ALLOCATION_LABEL: lease.allocation_uid,
            GENERATION_LABEL: str(lease.generation),
        }
        if any(labels.get(key) != value for key, value in ours.items()):
            raise docker.errors.NotFound(f"no container {lease.container_name} of this lease")
        return found

    def remove(self, name_or_id: str) -> None:
        self._engine.remove_container(name_or_id)

    def of_lease(self, allocation_uid: str, generation: int) -> list[Json]:
        return [
            entry
            for entry in self._engine.containers()
            if entry["Labels"].get(ALLOCATION_LABEL) == allocation_uid
            and entry["Labels"].get(GENERATION_LABEL) == str(generation)
        ]

    def forget(self, allocation_uid: str) -> None:
        (self._metadata / f"{allocation_uid}.json").unlink(missing_ok=True)

    def _create(self, held: HeldLease, arguments: Json) -> Any:
        lease = held.lease
        try:
            hub = _HUB_PART.validate_python(arguments)
            config = container_config(
                self._engine,
                lease,
                hub,
                network=held.network or "none",
                metadata=write_metadata(self._metadata, lease, simulated=self._simulated),
                simulated=self._simulated,
                publish_address=self._publish_address,
                quota=self._quota,
            )
        except (ValidationError, ValueError) as error:
            raise BadArgumentsError(str(error)[:500]) from error
        try:
            return self._engine.api.create_container(**config)
        except docker.errors.ImageNotFound:
            with self._pulling:
                self._engine.api.pull(lease.image)
            return self._engine.api.create_container(**config)

    def _stop(self, held: HeldLease, arguments: Json) -> None:
        self._engine.api.stop(held.lease.container_name, timeout=_integer(arguments, "timeout", 10, _MAX_GRACE_S))

    def _port(self, held: HeldLease, _: Json) -> Any:
        return self._engine.api.port(held.lease.container_name, held.lease.ports[0])

    def _logs(self, held: HeldLease, arguments: Json) -> str:
        text: bytes = self._engine.api.logs(held.lease.container_name, tail=_integer(arguments, "tail", 20, _MAX_LINES))
        return text.decode(errors="replace")


def _integer(arguments: Json, name: str, default: int, most: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise BadArgumentsError(f"{name} must be a whole number between 0 and {most}")
    return value
