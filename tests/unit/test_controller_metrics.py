"""What Prometheus is told of the scheduling loop."""

from typing import Any

from starlette.testclient import TestClient

from cluster import metrics
from cluster.hostlink import application
from cluster.plan_desk import PlanDesk
from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from tests.unit.simulated_world import A100, World, host


def samples() -> dict[str, float]:
    """As `/metrics` of the host link says: values by names with labels."""
    agents: Any = None  # no host is called
    with TestClient(application(agents, PlanDesk())) as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_decisions_are_counted_by_reason() -> None:
    world = World(lambda: Engine(EngineSettings(patience_s=0, grace_s=0)), host(1, A100))
    before = samples()
    world.submit(1, preemptible=True)
    _work(world)
    world.submit(2, priority=100)
    world.submit(3)
    _work(world)
    after = samples()
    grown = {name: value - before.get(name, 0) for name, value in after.items() if name.endswith(("_total", '"}'))}
    assert grown["remotegpu_scheduler_admissions_total"] == 2
    assert grown["remotegpu_scheduler_evictions_total"] == 1
    assert grown['remotegpu_scheduler_decisions_total{reason="placed"}'] == 2
    assert grown['remotegpu_scheduler_decisions_total{reason="preempted"}'] == 1
    waits = {name: value for name, value in grown.items() if "decisions_total{" in name and value}
    assert len(waits) > 2, "why the others wait"


def test_time_and_depth_are_told() -> None:
    before = samples()["remotegpu_scheduler_cycle_seconds_count"]
    with metrics.CYCLE.time():
        pass
    metrics.QUEUE.set(7)
    told = samples()
    assert told["remotegpu_scheduler_cycle_seconds_count"] == before + 1
    assert told['remotegpu_scheduler_cycle_seconds_bucket{le="10.0"}'] >= 1
    assert told["remotegpu_scheduler_queue_depth"] == 7


def _work(world: World) -> None:
    """Cycles as the leader runs them, until there is nothing to do at once."""
    for _ in range(20):
        metrics.count(world.scheduler.cycle())
        world.run_effects()
        world.pass_time(1)
