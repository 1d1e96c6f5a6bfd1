"""Queue sets from YAML, and traces with times, in virtual time through the loop."""

import json
from pathlib import Path

import pytest

from scheduler.engine.engine import Engine
from scheduler.engine.settings import EngineSettings
from scheduler.simulator.__main__ import main
from scheduler.simulator.course import Course
from scheduler.simulator.figures import run_figures
from scheduler.simulator.openb import read_trace
from scheduler.simulator.queue_sets import read_queue_sets
from scheduler.simulator.trace import Trace
from scheduler.simulator.virtual import Simulation

CONFIGS = Path(__file__).parents[2] / "scheduler" / "simulator" / "configs"
SMALL = """cohorts:
  - className: cohort
    count: 2
    queuesSets:
      - className: queue
        count: 2
        nominalQuota: 4
        borrowingLimit: 2
        reclaimWithinCohort: Any
        withinClusterQueue: LowerPriority
        workloadsSets:
          - count: 3
            creationIntervalMs: 100
            workloads:
              - className: short
                runtimeMs: 150
                priority: 50
                request: 1
"""
PREEMPTING = """cohorts:
  - className: c
    count: 1
    queuesSets:
      - className: q
        count: 1
        nominalQuota: 4
        withinClusterQueue: LowerPriority
        workloadsSets:
          - {count: 1, creationIntervalMs: 0, workloads: [{className: low, runtimeMs: 1000, priority: 1, request: 4}]}
          - {count: 1, creationIntervalMs: 400, workloads: [{className: high, runtimeMs: 300, priority: 9, request: 2}]}
"""


class Simulate:
    """The command, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Its exit code, and what it wrote to standard output and error."""
        try:
            code = main(arguments)
        except SystemExit as exit_:  # argparse refuses the options
            code = int(exit_.code or 0)
        output, errors = self._capsys.readouterr()
        return code, output, errors


@pytest.fixture
def simulate(capsys: pytest.CaptureFixture[str]) -> Simulate:
    return Simulate(capsys)


def written(directory: Path, text: str) -> Path:
    path = directory / "queues.yaml"
    path.write_text(text)
    return path


def run(trace: Trace) -> Course:
    return Simulation(trace, Engine(EngineSettings(grace_s=0, patience_s=0))).run()


def test_what_a_file_says(tmp_path: Path) -> None:
    trace = read_queue_sets(written(tmp_path, SMALL))
    assert [(host.name, len(host.devices)) for host in trace.hosts] == [("cohort-0-0", 8), ("cohort-1-0", 8)]
    assert len({device.gpu_id for host in trace.hosts for device in host.devices}) == 16
    assert {(group.cohort, group.nominal, group.borrowing_limit) for group in trace.groups} == {
        ("cohort-0", 4000, 2000),
        ("cohort-1", 4000, 2000),
    }
    assert [work.arrives_ms for work in trace.work] == [100] * 4 + [200] * 4 + [300] * 4
    assert len({work.customer_id for work in trace.work}) == 4


def test_a_cohort_may_have_hosts_of_a_size(tmp_path: Path) -> None:
    trace = read_queue_sets(written(tmp_path, SMALL.replace("count: 2\n    q", "count: 1\n    gpusPerHost: 3\n    q")))
    assert [(host.name, len(host.devices)) for host in trace.hosts] == [
        ("cohort-0-0", 3),
        ("cohort-0-1", 3),
        ("cohort-0-2", 2),
    ]
    assert {device.model for host in trace.hosts for device in host.devices} == {"cohort-0"}


def test_without_contention_nothing_waits(tmp_path: Path) -> None:
    course = run(read_queue_sets(written(tmp_path, SMALL)))
    figures = run_figures(course)
    assert course.done
    assert figures.makespan_s == 0.45
    assert (figures.admissions, figures.preemptions, figures.waiting) == (12, 0, 0)
    assert figures.kinds[0].mean_wait_s == 0.0
    assert figures.used_percent == pytest.approx(100 * 12 * 150 / (450 * 16))


def test_what_is_preempted_starts_again_from_zero(tmp_path: Path) -> None:
    course = run(read_queue_sets(written(tmp_path, PREEMPTING)))
    low, high = course.stories
    assert (low.work.kind, low.preemptions, high.preemptions) == ("low", 1, 0)
    assert high.started_ms is not None and 400 <= high.started_ms <= 420
    assert low.first_started_ms == 0
    assert high.ended_ms is not None and low.started_ms is not None and low.ended_ms is not None
    assert low.started_ms >= high.ended_ms
    assert low.ended_ms - low.started_ms == 1000
    assert low.ran_ms > 1400
    assert run_figures(course).lost_percent > 0


@pytest.mark.parametrize(("name", "work", "bound_ms"), [("baseline", 15_000, 66_000), ("large", 50_000, 4_025)])
def test_the_configurations_that_come_along(name: str, work: int, bound_ms: float) -> None:
    trace = read_queue_sets(CONFIGS / f"{name}.yaml")
    assert len(trace.work) == work
    units_ms = sum(each.demand.gpu_milli * (each.runtime_ms or 0) for each in trace.work) / 1000
    assert units_ms / trace.gpus == bound_ms


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count: 2\n    queues", "count: many\n    queues", "line 3, column 12: a whole number is expected"),
        ("nominalQuota: 4", "nominalQuota: -4", "line 7, column 23: a number from 0"),
        ("nominalQuota: 4", "nominalQuote: 4", "line 7, column 9: one of className"),
        ("reclaimWithinCohort: Any", "reclaimWithinCohort: Some", "line 9, column 30: Any or Never"),
        ("        count: 2\n", "", "line 5, column 9: count is missing"),
        ("count: 3", "count: 3\n            count: 3", "line 13, column 13: count is there already"),
        ("- className: short", "- className: [short", "line 16, column 26: expected"),
        ("request: 1", "request: 1.5", "line 18, column 26: a whole number"),
        (SMALL, "", "line 1, column 1: it is empty"),
        (SMALL, "cohorts: {}", "line 1, column 10: a list"),
        ("nominalQuota: 4", "nominalQuota: 0", "line 5, column 7: nominal quotas that add up to 1"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(
    tmp_path: Path, simulate: Simulate, old: str, new: str, said: str
) -> None:
    assert old in SMALL
    path = written(tmp_path, SMALL.replace(old, new, 1))
    code, output, errors = simulate("--queues", str(path))
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert f"queues.yaml, {said}" in errors


def test_what_the_command_writes(tmp_path: Path, simulate: Simulate) -> None:
    path, plot = written(tmp_path, SMALL), tmp_path / "use.svg"
    code, output, errors = simulate("--queues", str(path), "--json", "--plot", str(plot))
    assert code == 0, errors
    document = json.loads(output)
    assert (document["makespan_s"], document["admissions"]) == (0.45, 12)
    assert document["kinds"][0]["kind"] == "short"
    assert max(document["use"]["gpu_milli"]) == 8000
    assert plot.read_text().startswith("<svg")
    assert "12 admissions" in simulate("--queues", str(path))[1]


@pytest.mark.parametrize(
    "arguments",
    [(), ("--nodes", "n.csv"), ("--queues", "q.yaml", "--nodes", "n.csv"), ("--queues", "q.yaml", "--out", "o.csv")],
)
def test_options_that_do_not_go_together(simulate: Simulate, arguments: tuple[str, ...]) -> None:
    code, _, errors = simulate(*arguments)
    assert code == 2
    assert "--queues" in errors


NODES = "sn,cpu_milli,memory_mib,gpu,model\nn1,32000,1000,1,T4\n"
TASKS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time
first,1000,10,1,1000,,0,100
second,1000,10,1,1000,,10,20
never,1000,10,1,1000,V100,30,40
"""


def test_tasks_with_times_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "tasks.csv").write_text(TASKS)
    course = run(read_trace(tmp_path / "nodes.csv", tmp_path / "tasks.csv"))
    first, second, never = course.stories
    assert (first.started_ms, first.ended_ms) == (0, 100_000)
    assert second.started_ms is not None and 100_000 <= second.started_ms <= 100_020
    assert never.started_ms is None
    assert run_figures(course).waiting == 1


def test_a_table_without_times_cannot_be_played(tmp_path: Path, simulate: Simulate) -> None:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "tasks.csv").write_text(TASKS.replace(",creation_time", ",created"))
    files = ("--nodes", str(tmp_path / "nodes.csv"), "--tasks", str(tmp_path / "tasks.csv"))
    code, _, errors = simulate(*files, "--arrivals", "trace")
    assert code == 2
    assert "tasks.csv, line 1, column creation_time: it is missing" in errors
