"""Environments: JupyterLab servers with GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from remotegpu.errors import NotFound, RemoteGpuError
from remotegpu.models import Environment
from remotegpu.options import RunOptions, SchedulingOptions, given
from remotegpu.transport import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PATH = "/customer/environments"
_POLL_S = 0.5
_SETTLED = frozenset({"running", "failed", "stopped", "deleted"})


class WaitTimeout(RemoteGpuError):
    """What was waited for did not come in the time allowed; it may still do so."""


class Environments:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        name: str,
        image: str,
        gpus: int = 1,
        gpu_model: str | None = None,
        cpu_milli: int | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
        workspace: str | None = None,
        **options: Unpack[SchedulingOptions],
    ) -> Environment:
        """Ask for an environment. It is queued, and starts by itself when what it asks for is free.

        Raises:
            Refused: unknown image or model, a name taken, more than the quota allows, ...
        """
        body = {
            "name": name,
            "image": image,
            "gpus": gpus,
            "gpu_model": gpu_model,
            "cpu_milli": cpu_milli,
            "memory_bytes": memory_bytes,
            "disk_bytes": disk_bytes,
            "workspace": workspace,
        }
        return self._transport.post(_PATH, Environment, given({**body, **options}))

    def list(self) -> Iterator[Environment]:
        return self._transport.pages(_PATH, Environment)

    def get(self, environment_id: str) -> Environment:
        return self._transport.get(f"{_PATH}/{environment_id}", Environment)

    def find(self, name_or_id: str) -> Environment:
        """The environment with that name or id.

        Raises:
            NotFound: there is none.
        """
        for environment in self.list():
            if name_or_id in (environment.name, environment.id):
                return environment
        raise NotFound(
            status=404,
            code="not_found",
            detail=f"There is no environment {name_or_id!r}; `remotegpu env list` shows yours.",
        )

    def start(self, environment_id: str, **options: Unpack[RunOptions]) -> Environment:
        """Queue it again. The options given replace those that it had."""
        return self._transport.post(f"{_PATH}/{environment_id}/start", Environment, dict(options) or None)

    def stop(self, environment_id: str) -> Environment:
        """End its container and give its GPUs back; /home stays."""
        return self._transport.post(f"{_PATH}/{environment_id}/stop", Environment)

    def delete(self, environment_id: str) -> None:
        """Delete it with its /home volume."""
        self._transport.delete(f"{_PATH}/{environment_id}")

    def wait(
        self,
        environment_id: str,
        *,
        timeout_s: float = 600.0,
        until: frozenset[str] = _SETTLED,
        on_change: Callable[[Environment], None] | None = None,
    ) -> Environment:
        """Wait until it is in one of the states `until`: by default, until it runs or has ended.

        `on_change` sees each new state, reason to wait, place, and minute at which it may start.

        Raises:
            WaitTimeout: neither within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        seen: tuple[object, ...] | None = None
        while True:
            environment = self.get(environment_id)
            state = (environment.observed, *_told(environment))
            if state != seen and on_change is not None:
                on_change(environment)
            seen = state
            if environment.observed in until:
                return environment
            if time.monotonic() > deadline:
                raise WaitTimeout(f"environment {environment.name} is still {environment.observed}")
            time.sleep(_POLL_S)


def _told(environment: Environment) -> tuple[object, ...]:
    wait = environment.wait
    if wait is None:
        return ()
    minute = wait.eta.replace(second=0, microsecond=0) if wait.eta is not None else None
    return wait.code, wait.detail, wait.position, minute
