"""What the controller tells Prometheus; served at `/metrics` of the host link, and from there by the API's."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from scheduler.loop import Cycle

REGISTRY = CollectorRegistry()

LEADER = Gauge("remotegpu_controller_leader", "1 while this controller leads", registry=REGISTRY)
HOSTS = Gauge("remotegpu_ray_hosts", "Hosts alive in Ray", registry=REGISTRY)
CYCLE = Histogram(
    "remotegpu_scheduler_cycle_seconds",
    "One cycle of the scheduling loop",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
QUEUE = Gauge("remotegpu_scheduler_queue_depth", "Requests that wait, counted every five seconds", registry=REGISTRY)
ADMISSIONS = Counter("remotegpu_scheduler_admissions", "Allocations admitted", registry=REGISTRY)
EVICTIONS = Counter("remotegpu_scheduler_evictions", "Allocations that had to give way", registry=REGISTRY)
DECISIONS = Counter(
    "remotegpu_scheduler_decisions",
    "Decisions, by what they were: placed, preempted, or why a request waits from then on",
    ["reason"],
    registry=REGISTRY,
)
DUTY_FAILURES = Counter(
    "remotegpu_controller_duty_failures", "Duties that failed and are tried again", ["duty"], registry=REGISTRY
)
BOOKS_WRONG = Gauge(
    "remotegpu_ledger_findings", "What the last round of the check over the books found wrong", registry=REGISTRY
)
BOOKS_ROUNDS = Gauge("remotegpu_ledger_rounds", "Rounds over the books that this controller made", registry=REGISTRY)
HOST_CALLS = Histogram(
    "remotegpu_host_call_seconds",
    "Operations carried to hosts",
    ["outcome"],
    buckets=(0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60),
    registry=REGISTRY,
)


def count(cycle: Cycle) -> None:
    """Add what a cycle has done."""
    ADMISSIONS.inc(cycle.admitted)
    EVICTIONS.inc(cycle.evicted)
    for reason, decisions in cycle.reasons.items():
        DECISIONS.labels(reason=reason).inc(decisions)
