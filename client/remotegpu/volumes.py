"""Volumes: named folders that outlive the tasks which mount them, each on one host."""

from __future__ import annotations

from collections.abc import Iterator

from remotegpu.errors import NotFound
from remotegpu.models import Volume
from remotegpu.options import given
from remotegpu.transport import Transport

_PATH = "/customer/volumes"


class Volumes:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, *, size_bytes: int, workspace: str | None = None) -> Volume:
        """One that takes so many bytes; it lies on the host of the first task that mounts it.

        Raises:
            Refused: the name is taken in the workspace, more than the quota allows, ...
        """
        body = {"name": name, "size_bytes": size_bytes, "workspace": workspace}
        return self._transport.post(_PATH, Volume, given(body))

    def list(self, *, workspace: str | None = None) -> Iterator[Volume]:
        return self._transport.pages(_PATH, Volume, workspace=workspace)

    def find(self, name_or_id: str, *, workspace: str | None = None) -> Volume:
        """The volume with that name or id.

        Raises:
            NotFound: there is none.
        """
        for volume in self.list(workspace=workspace):
            if name_or_id in (volume.name, volume.id):
                return volume
        detail = f"There is no volume {name_or_id!r}; `remotegpu volume list` shows yours."
        raise NotFound(status=404, code="not_found", detail=detail)

    def delete(self, volume_id: str) -> None:
        """Delete it with what is in it.

        Raises:
            Refused: a task that has not ended mounts it.
        """
        self._transport.delete(f"{_PATH}/{volume_id}")
