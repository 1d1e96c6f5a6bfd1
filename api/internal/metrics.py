"""Prometheus metrics of the platform, read from the database at each scrape, and those of the controller beside it.

The controller listens at a Unix socket alone, which Prometheus can't scrape.
"""

from collections.abc import Iterator
from typing import cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.db import Database
from api.deps import DatabaseDep
from api.environments.tables import Environment
from api.hostlink import Hostlink
from api.internal.peer import MonitoringPeer
from api.machines.tables import Gpu, Host
from scheduler.states import AllocationState, DeviceStatus, EnvironmentState

router = APIRouter(tags=["monitoring"])

# reading's key -> metric and what it means
_READINGS = {
    "utilisation_percent": ("remotegpu_gpu_utilisation_percent", "Share of time with work on the device"),
    "memory_used_bytes": ("remotegpu_gpu_memory_used_bytes", "Memory in use on the device"),
    "temperature_c": ("remotegpu_gpu_temperature_celsius", "Temperature of the device"),
    "power_mw": ("remotegpu_gpu_power_milliwatts", "Power that the device draws"),
}


class PlatformCollector(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._database.session() as session:
            yield from _states(session)
            yield from _gpus(session)


def _states(session: Session) -> Iterator[GaugeMetricFamily]:
    counted = (
        ("hosts", "device_status", Host.device_status, DeviceStatus),
        ("allocations", "state", Allocation.state, AllocationState),
        ("environments", "observed", Environment.observed, EnvironmentState),
    )
    for name, label, column, states in counted:
        family = GaugeMetricFamily(f"remotegpu_{name}", f"Number of {name} by state", labels=[label])
        counts = {str(state): count for state, count in session.execute(select(column, func.count()).group_by(column))}
        for state in states:
            family.add_metric([state], counts.get(state, 0))
        yield family


def _gpus(session: Session) -> Iterator[GaugeMetricFamily]:
    labels = ["host", "uuid", "model", "simulated"]
    query = select(Gpu, Host.name).join(Host, Host.id == Gpu.host_id).where(Gpu.present)
    gpus = [(gpu, [host, gpu.uuid, gpu.model, str(gpu.simulated).lower()]) for gpu, host in session.execute(query)]
    healthy = GaugeMetricFamily("remotegpu_gpu_healthy", "Whether the device is healthy", labels=labels)
    for gpu, values in gpus:
        healthy.add_metric(values, float(gpu.healthy))
    yield healthy
    for key, (name, documentation) in _READINGS.items():
        family = GaugeMetricFamily(name, documentation, labels=labels)
        for gpu, values in gpus:
            value = (gpu.reading or {}).get(key)
            if value is not None:  # what can't be read is absent, never zero
                family.add_metric(values, value)
        yield family


@router.get("/metrics", response_class=PlainTextResponse)
def get_metrics(peer: MonitoringPeer, database: DatabaseDep, request: Request) -> Response:
    controller = cast(Hostlink, request.app.state.hostlink).metrics()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PlatformCollector(database))
    answers = Gauge("remotegpu_controller_up", "Whether the controller on this machine answers", registry=registry)
    answers.set(controller is not None)
    return Response(generate_latest(registry) + (controller or b""), media_type=CONTENT_TYPE_LATEST)
