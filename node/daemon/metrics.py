"""What a host tells Prometheus: its GPUs and itself, over HTTP on its own address. What can't be read is absent.

The daemon serves it and not the agent in Ray: it has the readings, it keeps its port, and it is there when Ray is not.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.daemon.config import HostConfig
from scheduler.host_protocol import GpuFacts, GpuReading

log = logging.getLogger(__name__)

_GPU_LABELS = ("host", "uuid", "model", "simulated")
# field of a reading -> metric and what it means; the first ones are named as in the platform's own metrics
_GAUGES = {
    "utilisation_percent": ("utilisation_percent", "Share of time with work on the device"),
    "memory_used_bytes": ("memory_used_bytes", "Memory in use on the device"),
    "temperature_c": ("temperature_celsius", "Temperature of the device"),
    "power_mw": ("power_milliwatts", "Power that the device draws"),
    "power_limit_mw": ("power_limit_milliwatts", "Power that the device may draw"),
    "sm_clock_mhz": ("sm_clock_megahertz", "Clock of the multiprocessors"),
    "memory_clock_mhz": ("memory_clock_megahertz", "Clock of the memory"),
    "last_xid": ("last_xid", "The last XID error since the daemon started"),
    "process_count": ("processes", "Processes that compute on the device"),
}
_ECC = {"ecc_corrected": "corrected", "ecc_uncorrected": "uncorrected"}
_TRIES = 5


@dataclass(frozen=True, slots=True)
class HostGauges:
    """What the host says of itself, besides its GPUs."""

    leases: int
    spool_backlog: int
    docker_answers: bool
    raylet_runs: bool | None  # None: there is to be none
    certificate_ends_s: float


class HostCollector(Collector):
    def __init__(
        self,
        host: str,
        gpus: Sequence[GpuFacts],
        readings: Callable[[], Sequence[GpuReading]],
        gauges: Callable[[], HostGauges],
    ) -> None:
        self._host, self._gpus, self._readings, self._gauges = host, gpus, readings, gauges

    def collect(self) -> Iterator[Metric]:
        yield from host_metrics(self._host, self._gauges())
        yield from gpu_metrics(self._host, self._gpus, self._readings())


def host_metrics(host: str, found: HostGauges) -> Iterator[Metric]:
    values = {
        "leases": ("Leases held", found.leases),
        "spool_backlog": ("Usage windows that the platform has not confirmed", found.spool_backlog),
        "docker_up": ("Whether Docker answers", found.docker_answers),
        "raylet_up": ("Whether the raylet runs", found.raylet_runs),
        "certificate_expiry_seconds": (
            "When the host's certificate expires, since the epoch",
            found.certificate_ends_s,
        ),
    }
    for name, (documentation, value) in values.items():
        if value is not None:
            family = GaugeMetricFamily(f"remotegpu_host_{name}", documentation, labels=["host"])
            family.add_metric([host], float(value))
            yield family


def gpu_metrics(host: str, facts: Sequence[GpuFacts], readings: Sequence[GpuReading]) -> Iterator[Metric]:
    models = {gpu.uuid: gpu.model for gpu in facts}
    labelled = [
        (reading, [host, reading.uuid, models.get(reading.uuid, "unknown"), str(reading.simulated).lower()])
        for reading in readings
    ]
    healthy = GaugeMetricFamily("remotegpu_gpu_healthy", "Whether the device is healthy", labels=_GPU_LABELS)
    total = GaugeMetricFamily("remotegpu_gpu_memory_total_bytes", "Memory of the device", labels=_GPU_LABELS)
    throttled = GaugeMetricFamily(
        "remotegpu_gpu_throttled", "Why clocks are reduced now", labels=[*_GPU_LABELS, "reason"]
    )
    ecc = CounterMetricFamily(
        "remotegpu_gpu_ecc_errors", "Memory errors since the driver was loaded", labels=[*_GPU_LABELS, "kind"]
    )
    memory = {gpu.uuid: gpu.memory_bytes for gpu in facts if gpu.memory_bytes}
    for reading, labels in labelled:
        healthy.add_metric(labels, float(reading.healthy))
        if reading.uuid in memory:
            total.add_metric(labels, memory[reading.uuid])
        for reason in reading.throttle_reasons or ():
            throttled.add_metric([*labels, reason], 1)
        for name, kind in _ECC.items():
            if (count := getattr(reading, name)) is not None:
                ecc.add_metric([*labels, kind], count)
    yield from (healthy, total, throttled, ecc)
    for name, (metric, documentation) in _GAUGES.items():
        family = GaugeMetricFamily(f"remotegpu_gpu_{metric}", documentation, labels=_GPU_LABELS)
        for reading, labels in labelled:
            if (value := getattr(reading, name)) is not None:
                family.add_metric(labels, value)
        yield family


class MetricsServer:
    """Listens at the host's address. Its port is never one that tenants may reach."""

    def __init__(self, config: HostConfig, collector: Collector) -> None:
        self._config = config
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._server: WSGIServer | None = None
        self.problem: str | None = None

    @property
    def url(self) -> str | None:
        return f"http://{self._config.address}:{self._server.server_port}/metrics" if self._server else None

    def keep(self) -> None:
        """Listen, if it does not yet: another program may have had the port."""
        if self._server is not None:
            return
        try:
            self._server = self._listen()
            self.problem = None
            log.info("metrics at %s", self.url)
        except OSError as error:
            self.problem = f"metrics: port {self._config.metrics_port} of {self._config.address}: {error}"

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _listen(self) -> WSGIServer:
        if self._config.metrics_port in self._config.tenant_ports:
            raise OSError("tenants may reach this port")
        for _ in range(_TRIES):
            server, _ = start_http_server(self._config.metrics_port, self._config.address, self._registry)
            if server.server_port not in self._config.tenant_ports:
                return server
            server.shutdown()
            server.server_close()
        raise OSError("no free port but those that tenants may reach")
