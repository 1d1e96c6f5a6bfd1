"""Synthetic queue sets in the shape of Kueue's performance configurations, from YAML.

Kueue's benchmark knows quota only, and no hosts. Here each cohort has as many GPUs as the quotas of its queues add up
to, of a model of its own: on one host, or on hosts of `gpusPerHost`, which we have added. A unit of a request is one
GPU. Each queue is a customer with a capacity group. A set creates its work one by one, always after its interval, the
first one too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.demand import Demand
from scheduler.money import MILLI_PER_GPU
from scheduler.packing.shape import Shape
from scheduler.simulator.located_yaml import Entry, read_yaml
from scheduler.simulator.trace import Trace, Work
from scheduler.views import CapacityGroup, DeviceView, HostView

_MIB = 2**20
_GIB = 2**30
_MAX_COUNT = 1_000_000
_MAX_GPUS = 100_000
_MAX_MS = 10**9
_MAX_PRIORITY = 1000
_RECLAIM = {"Any": True, "Never": False}
_WITHIN = {"LowerPriority": True, "Never": False}


@dataclass(frozen=True, slots=True)
class _Template:
    """What a workloads set creates, each time all of `shapes`: class, runtime in ms, priority, units."""

    count: int
    interval_ms: int
    shapes: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _QueuesSet:
    name: str
    count: int
    nominal: int
    borrowing_limit: int | None
    lending_limit: int | None
    reclaim: bool
    within: bool
    sets: tuple[_Template, ...]


@dataclass(frozen=True, slots=True)
class _Cohort:
    name: str
    queues_sets: tuple[_QueuesSet, ...]
    gpus_per_host: int | None

    @property
    def gpus(self) -> int:
        return sum(queues.count * queues.nominal for queues in self.queues_sets)


def read_queue_sets(path: Path) -> Trace:
    """
    Raises:
        TraceError, OSError
    """
    root = read_yaml(path).mapping(required=("cohorts",))
    cohorts = [cohort for entry in root["cohorts"].items() for cohort in _cohorts(entry)]
    hosts: list[HostView] = []
    groups: list[CapacityGroup] = []
    work: list[Work] = []
    for cohort in cohorts:
        hosts.extend(_hosts(cohort, first_id=len(hosts) + 1))
        for queues in cohort.queues_sets:
            for index in range(queues.count):
                group = _group(queues, cohort, index)
                groups.append(group)
                work.extend(_work(queues, group, cohort.name, customer_id=len(groups)))
    return Trace(tuple(hosts), tuple(sorted(work, key=lambda each: (each.arrives_ms, each.name))), tuple(groups))


def _cohorts(entry: Entry) -> Iterator[_Cohort]:
    fields = entry.mapping(required=("className", "count", "queuesSets"), optional=("gpusPerHost",))
    queues_sets = tuple(_queues_set(each) for each in fields["queuesSets"].items())
    name, per_host = fields["className"].text(), fields.get("gpusPerHost")
    gpus_per_host = None if per_host is None else per_host.integer(1, _MAX_GPUS)
    count = fields["count"].integer(1, _MAX_COUNT)
    cohorts = [_Cohort(f"{name}-{index}", queues_sets, gpus_per_host) for index in range(count)]
    if not 0 < cohorts[0].gpus <= _MAX_GPUS:
        raise fields["queuesSets"].error(f"nominal quotas that add up to 1 to {_MAX_GPUS} are expected")
    yield from cohorts


def _queues_set(entry: Entry) -> _QueuesSet:
    fields = entry.mapping(
        required=("className", "count", "nominalQuota", "workloadsSets"),
        optional=("borrowingLimit", "lendingLimit", "reclaimWithinCohort", "withinClusterQueue"),
    )
    borrowing, lending = fields.get("borrowingLimit"), fields.get("lendingLimit")
    reclaim, within = fields.get("reclaimWithinCohort"), fields.get("withinClusterQueue")
    return _QueuesSet(
        name=fields["className"].text(),
        count=fields["count"].integer(1, _MAX_COUNT),
        nominal=fields["nominalQuota"].integer(0, _MAX_GPUS),
        borrowing_limit=None if borrowing is None else borrowing.integer(0, _MAX_GPUS),
        lending_limit=None if lending is None else lending.integer(0, _MAX_GPUS),
        reclaim=reclaim is not None and reclaim.choice(_RECLAIM),  # as in Kueue, Never if it is not said
        within=within is not None and within.choice(_WITHIN),
        sets=tuple(_template(each) for each in fields["workloadsSets"].items()),
    )


def _template(entry: Entry) -> _Template:
    fields = entry.mapping(required=("count", "creationIntervalMs", "workloads"))
    shapes = [
        each.mapping(required=("className", "runtimeMs", "priority", "request")) for each in fields["workloads"].items()
    ]
    return _Template(
        fields["count"].integer(1, _MAX_COUNT),
        fields["creationIntervalMs"].integer(0, _MAX_MS),
        tuple(
            (
                shape["className"].text(),
                shape["runtimeMs"].integer(1, _MAX_MS),
                shape["priority"].integer(0, _MAX_PRIORITY),
                shape["request"].integer(1, _MAX_GPUS),
            )
            for shape in shapes
        ),
    )


def _hosts(cohort: _Cohort, *, first_id: int) -> Iterator[HostView]:
    per_host = cohort.gpus_per_host or cohort.gpus
    for index, start in enumerate(range(0, cohort.gpus, per_host)):
        yield _host(first_id + index, f"{cohort.name}-{index}", cohort.name, min(per_host, cohort.gpus - start))


def _host(host_id: int, name: str, model: str, gpus: int) -> HostView:
    first = host_id * _MAX_GPUS
    devices = tuple(DeviceView(first + index, f"GPU-{host_id}-{index}", model, _GIB) for index in range(gpus))
    return HostView(host_id, name, name, gpus * 1000, gpus * _GIB, devices)


def _group(queues: _QueuesSet, cohort: _Cohort, index: int) -> CapacityGroup:
    return CapacityGroup(
        name=f"{queues.name}-{index}-{cohort.name}",
        cohort=cohort.name,
        nominal=queues.nominal * MILLI_PER_GPU,
        borrowing_limit=_milli(queues.borrowing_limit),
        lending_limit=_milli(queues.lending_limit),
        reclaim_within_cohort=queues.reclaim,
        preempt_lower_priority=queues.within,
    )


def _work(queues: _QueuesSet, group: CapacityGroup, model: str, *, customer_id: int) -> Iterator[Work]:
    for number, template in enumerate(queues.sets):
        arrives_ms = 0
        for index in range(template.count):
            for place, (kind, runtime_ms, priority, units) in enumerate(template.shapes):
                arrives_ms += template.interval_ms
                yield Work(
                    name=f"{group.name}/{kind}-{number}-{index}-{place}",
                    kind=kind,
                    demand=Demand(Shape(1, _MIB, units), models=(model,)),
                    arrives_ms=arrives_ms,
                    runtime_ms=runtime_ms,
                    customer_id=customer_id,
                    priority=priority,
                    group=group.name,
                    preemptible=False,
                )


def _milli(units: int | None) -> int | None:
    return None if units is None else units * MILLI_PER_GPU
