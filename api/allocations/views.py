"""Rows of allocations and hosts as the scheduling loop's values (`scheduler.views`)."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Row

from api.allocations.feasibility import read_version
from scheduler.demand import Demand, Operator, Selector
from scheduler.host_protocol import LeaseKind
from scheduler.packing.shape import Shape
from scheduler.states import REACHABLE, AdminState, DeviceStatus
from scheduler.views import DeviceView, HostView, Request

_DEMAND_COLUMNS = (
    "a.cpu_milli, a.memory_bytes, a.gpus, a.milli, a.nodes, to_json(a.gpu_models)::text, a.gpu_memory_bytes,"
    " a.selectors::text, a.driver_min, a.cuda_min, a.bound_host_id, a.apart, a.within_level, a.image_reference"
)
_DEMAND = slice(0, 14)
REQUEST_COLUMNS = (
    f"{_DEMAND_COLUMNS}, a.id, a.uid, a.customer_id, a.workspace_id, a.user_id, a.kind, a.state, a.generation,"
    " a.disconnect_s, a.priority, a.reservation_id, a.preemptible, a.min_runtime_s, a.limit_s, a.checkpoint_at,"
    " a.not_before, a.queued_at, a.placed_at, a.host_ids, g.name as capacity_group"
)
"""Of `allocations a left join capacity_groups g on g.id = a.capacity_group_id`: what a request is made of."""

HOST_COLUMNS = "h.id, h.uid, h.name, h.cpu_milli, h.memory_bytes, h.admin_state, h.device_status, h.labels, h.facts"
GPU_COLUMNS = "d.id, d.host_id, d.uuid, d.model, d.memory_bytes, d.nvlink_peer_uuids"


def request_of(row: Row[Any]) -> Request:
    """A row of `REQUEST_COLUMNS`."""
    return Request(
        allocation_id=row.id,
        allocation_uid=str(row.uid),
        customer_id=row.customer_id,
        workspace_id=row.workspace_id,
        demand=_demand(*row[_DEMAND]),
        queued_at=row.queued_at,
        priority=row.priority,
        group=row.capacity_group,
        preemptible=row.preemptible,
        min_runtime_s=row.min_runtime_s,
        limit_s=row.limit_s,
        hold_s=row.disconnect_s if row.limit_s is None else min(row.disconnect_s, row.limit_s),
        not_before=row.not_before,
        reservation_id=row.reservation_id,
        user_id=row.user_id,
        task=row.kind == LeaseKind.TASK,
    )


@lru_cache(maxsize=10_000)  # many requests are alike, and a request is read at each of its steps
def _demand(
    cpu_milli: int,
    memory_bytes: int,
    gpus: int,
    milli: int,
    nodes: int,
    models: str,
    gpu_memory_bytes: int,
    selectors: str,
    driver: str | None,
    cuda: str | None,
    bound_host_id: int | None,
    apart: str | None,
    within: str | None,
    image: str,
) -> Demand:
    """`models` and `selectors` are JSON."""
    return Demand(
        shape=Shape(cpu_milli, memory_bytes, gpus=gpus, milli=milli),
        nodes=nodes,
        models=tuple(json.loads(models)),
        gpu_memory_bytes=gpu_memory_bytes,
        selectors=tuple(map(_selector, json.loads(selectors))),
        driver=read_version(driver),
        cuda=read_version(cuda),
        bound_host_id=bound_host_id,
        apart=apart,
        within=within,
        image=image,
    )


def _selector(stored: Mapping[str, Any]) -> Selector:
    return Selector(stored["label"], Operator(stored["operator"]), tuple(stored["values"]))


def why_not_schedulable(admin_state: str, device_status: str) -> str | None:
    """Why a host takes no new work, in words that fit into a sentence; None if it does."""
    if admin_state != AdminState.AVAILABLE:
        return f"its operator has set it to {admin_state}"
    if device_status != DeviceStatus.ONLINE:
        return f"it is {device_status}"
    return None


def host_of(row: Row[Any], gpus: Sequence[Row[Any]], images: frozenset[str] | None) -> HostView:
    """A row of `HOST_COLUMNS` with those of its devices that may be rented, in the order of their index."""
    ids = {gpu.uuid: gpu.id for gpu in gpus}
    return HostView(
        host_id=row.id,
        host_uid=str(row.uid),
        name=row.name,
        cpu_milli=row.cpu_milli,
        memory_bytes=row.memory_bytes,
        devices=tuple(_device(gpu, ids) for gpu in gpus),
        why_not=why_not_schedulable(row.admin_state, row.device_status),
        labels=row.labels,
        driver=read_version(row.facts.get("driver_version")),
        cuda=read_version(row.facts.get("cuda_version")),
        images=images or frozenset(),
        reachable=row.device_status in REACHABLE,
    )


def _device(gpu: Row[Any], ids: Mapping[str, int]) -> DeviceView:
    return DeviceView(
        gpu_id=gpu.id,
        uuid=gpu.uuid,
        model=gpu.model,
        memory_bytes=gpu.memory_bytes,
        peers=frozenset(ids[uuid] for uuid in gpu.nvlink_peer_uuids if uuid in ids),
    )
