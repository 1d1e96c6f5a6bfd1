"""The scheduling loop's Fabric over Ray: placement groups reserve, agents carry leases to the hosts."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ray.exceptions import RaySystemError
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from cluster.agents import Agents, Answer
from node.ray_settings import HOST_LABEL, device_resource
from scheduler.host_protocol import Lease, LeaseEnd
from scheduler.money import MILLI_PER_GPU
from scheduler.ports import CapacityError, FabricError, HostShare, StaleGenerationError, StillEndingError

log = logging.getLogger(__name__)

_GRANT_S = 10.0  # the daemon prepares network and volume
_END_MARGIN_S = 15.0  # beyond the containers' grace
_LONG_GRACE_S = 30.0  # beyond this, a host answers that the end goes on
_OK, _CONFLICT = 200, 409
_STILL_ENDING = "still_ending"
_LEASE_END = TypeAdapter(LeaseEnd)


def bundle(share: HostShare) -> dict[str, float]:
    """Ray's form of a host share: exactly these devices, with CPU and memory beside them."""
    resources: dict[str, float] = {"CPU": share.cpu_milli / 1000, "memory": float(share.memory_bytes)}
    for device in share.devices:
        resources[device_resource(device.uuid)] = device.milli / MILLI_PER_GPU
    return resources


class RayFabric:
    """Implements `scheduler.ports.Fabric`. Safe to use from many threads.

    `reserve_s`: how long a group may take to become ready. Capacity that was just released takes Ray about a second.
    """

    def __init__(self, agents: Agents, *, namespace: str, reserve_s: float = 5.0) -> None:
        self._agents = agents
        self._namespace = namespace
        self._reserve_s = reserve_s

    def reserve(self, name: str, shares: Sequence[HostShare]) -> None:
        group = find_group(name) or self._create(name, shares)
        if group.wait(self._reserve_s):
            return
        remove_placement_group(group)
        raise CapacityError(f"Ray did not reserve {name} in {self._reserve_s:.1f} s")

    def remove(self, name: str) -> None:
        group = find_group(name)
        if group is not None:
            remove_placement_group(group)

    def grant(self, host_uid: str, lease: Lease) -> None:
        answer = self._agents.call(host_uid, "grant_lease", dataclasses.asdict(lease), timeout_s=_GRANT_S)
        _check(answer, "grant_lease", host_uid)

    def end(self, host_uid: str, *, allocation_uid: str, generation: int, grace_s: int, reason: str = "") -> LeaseEnd:
        body = {"allocation_uid": allocation_uid, "generation": generation, "grace_s": grace_s, "reason": reason}
        answer = self._agents.call(host_uid, "end_lease", body, timeout_s=min(grace_s, _LONG_GRACE_S) + _END_MARGIN_S)
        try:
            return _LEASE_END.validate_python(_check(answer, "end_lease", host_uid))
        except ValidationError as error:
            raise FabricError(f"{host_uid} answered end_lease with something else: {error}") from error

    def _create(self, name: str, shares: Sequence[HostShare]) -> PlacementGroup:
        # One bundle per host, each bound to its host: Ray never moves one to another host by itself.
        try:
            return placement_group(
                [bundle(share) for share in shares],
                strategy="PACK",
                name=name,
                lifetime="detached",
                bundle_label_selector=[{HOST_LABEL: share.host_uid} for share in shares],
            )
        except RaySystemError as error:
            existing = find_group(name)  # a duplicate name: somebody has made it in between
            if existing is None:
                raise CapacityError(f"Ray refused to reserve {name}: {error}") from error
            return existing


def find_group(name: str) -> PlacementGroup | None:
    """The living group of that name in this driver's namespace."""
    try:
        return get_placement_group(name)
    except ValueError:
        return None


def remove_orphans(known: frozenset[str], *, prefix: str) -> list[str]:
    """Remove living groups whose names begin with `prefix` and are not `known`; return their names.

    For a take-over only: Ray's list is slow and keeps removed groups.
    """
    orphans = [
        entry["name"]
        for entry in placement_group_table().values()
        if entry["state"] != "REMOVED" and entry["name"].startswith(prefix) and entry["name"] not in known
    ]
    for name in orphans:
        group = find_group(name)
        if group is not None:
            remove_placement_group(group)
    return orphans


def _check(answer: Answer, operation: str, host_uid: str) -> dict[str, Any]:
    if answer.status == _OK:
        return answer.body
    problem = f"{answer.status} {answer.body.get('code', '')}: {answer.body.get('detail', '')}"
    detail = f"host {host_uid} answered {operation} with {problem}"
    if answer.body.get("code") == _STILL_ENDING:
        raise StillEndingError(detail)
    if answer.status == _CONFLICT:
        raise StaleGenerationError(detail)
    raise FabricError(detail)
