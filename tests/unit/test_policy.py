"""First come first served: tables of cases, and that nobody is overtaken at the devices that they wait for."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.policy import Decision, FirstComeFirstServed
from scheduler.ports import FreeDevice, HostView, IdleGroup, QueuedRequest, Snapshot

GIB = 2**30
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"


def host(number: int, free: str, *, model: str = A100, cpu: int = 64_000, why_not: str | None = None) -> HostView:
    """`free` has a character per device: `.` for a free one, `x` for one in use. Ids: 100 * number + index."""
    devices = tuple(
        FreeDevice(100 * number + i, f"GPU-{number}-{i}", model, 80 * GIB, 1000 if mark == "." else 0)
        for i, mark in enumerate(free)
    )
    return HostView(
        number, f"uid{number}", f"h{number}", why_not is None, why_not, cpu, 512 * GIB, cpu, 512 * GIB, devices
    )


def ask(number: int, gpus: int = 1, model: str | None = "A100", **changes: object) -> QueuedRequest:
    request = QueuedRequest(
        number, f"a{number}", 1, 0, NOW - timedelta(seconds=100 - number), gpus, model, 1000, GIB, None, None
    )
    return replace(request, **changes)  # type: ignore[arg-type]  # fields by name


def decide(hosts: list[HostView], queue: list[QueuedRequest], idle: tuple[IdleGroup, ...] = ()) -> Decision:
    return FirstComeFirstServed().decide(Snapshot(hosts, queue, idle), NOW)


@dataclass(frozen=True)
class Case:
    name: str
    hosts: list[HostView]
    queue: list[QueuedRequest]
    placed: dict[int, tuple[int, ...]]
    waits: dict[int, str]


CASES = [
    Case("devices by index", [host(1, "x..")], [ask(1)], {1: (101,)}, {}),
    Case("best fit: the host with the fewest left", [host(1, "...."), host(2, "xx.."), host(3, "....")], [ask(1)],
         {1: (202,)}, {}),
    Case("not beyond a host's size now", [host(1, "..xx"), host(2, "..")], [ask(1, 4)], {}, {1: "no_capacity"}),
    Case("older first", [host(1, ".")], [ask(2), ask(1)], {1: (100,)}, {2: "no_capacity"}),
    Case("higher priority first", [host(1, ".")], [ask(1), ask(2, priority=5)], {2: (100,)}, {1: "no_capacity"}),
    Case("a large request is not starved by small ones", [host(1, "..x")], [ask(1, 3), ask(2), ask(3)], {},
         {1: "no_capacity", 2: "behind_others", 3: "behind_others"}),
    Case("who waits for an H100 leaves the A100s to others", [host(1, "x", model=H100), host(2, ".")],
         [ask(1, model="H100"), ask(2)], {2: (200,)}, {1: "no_capacity"}),
    Case("who takes any model keeps all that could do", [host(1, "x.", model=H100), host(2, ".x")],
         [ask(1, 2, model=None), ask(2)], {}, {1: "no_capacity", 2: "behind_others"}),
    Case("one model per allocation", [host(1, "."), host(2, ".", model=H100)], [ask(1, 2, model=None)], {},
         {1: "host_not_available"}),
    Case("CPU runs out before GPUs", [host(1, "..", cpu=1500)], [ask(1), ask(2)], {1: (100,)}, {2: "no_capacity"}),
    Case("bound to a busy host", [host(1, "x"), host(2, ".")], [ask(1, bound_host_id=1)], {}, {1: "bound_host_busy"}),
    Case("bound to a host that is away", [host(1, ".", why_not="it is unreachable"), host(2, ".")],
         [ask(1, bound_host_id=1), ask(2)], {2: (200,)}, {1: "bound_host_unavailable"}),
    Case("bound to a host that has gone", [host(2, ".")], [ask(1, bound_host_id=1)], {}, {1: "bound_host_unavailable"}),
    Case("bound to one host, it keeps only that one", [host(1, "x."), host(2, ".")],
         [ask(1, 2, bound_host_id=1), ask(2)], {2: (200,)}, {1: "bound_host_busy"}),
    Case("every host with the model is away", [host(1, ".", why_not="it is lost"), host(2, ".", model=H100)],
         [ask(1)], {}, {1: "host_not_available"}),
    Case("nobody has the model", [host(1, ".")], [ask(1, model="B200")], {}, {1: "host_not_available"}),
    Case("backing off, it keeps nothing", [host(1, ".")], [ask(1, not_before=NOW + timedelta(seconds=5)), ask(2)],
         {2: (100,)}, {1: "host_not_available"}),
    Case("backed off for long enough", [host(1, ".")], [ask(1, not_before=NOW)], {1: (100,)}, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_decisions(case: Case) -> None:
    decision = decide(case.hosts, case.queue)
    assert {p.allocation_id: p.gpu_ids for p in decision.placements} == case.placed
    assert {key: reason.code for key, reason in decision.waits.items()} == case.waits


def test_reasons_count_what_is_free_and_who_is_ahead() -> None:
    waits = decide([host(1, "..x"), host(2, "x", model=H100)], [ask(1, 3), ask(2, model="H100"), ask(3), ask(4)]).waits
    assert [waits[n].position for n in (1, 2, 3, 4)] == [1, 1, 2, 3]
    assert waits[1].detail == "2 of 3 A100 GPUs that fit are free; 3 are needed on one host, with its CPU and memory."
    assert waits[4].detail == (
        "2 of 3 A100 GPUs that fit are free, and kept for who came before. 2 requests are ahead of it."
    )
    assert waits[4].figures == {"free": 2, "total": 3, "wanted": 1, "ahead": 2}


def test_a_lack_of_cpu_is_not_blamed_on_others() -> None:
    waits = decide([host(1, "..", cpu=1500)], [ask(1, cpu_milli=1500), ask(2), ask(3)]).waits
    assert [waits[n].code for n in (2, 3)] == ["no_capacity", "no_capacity"]


def test_an_idle_group_of_the_same_shape_is_taken_before_a_better_fit() -> None:
    idle = (IdleGroup("rg", 1, frozenset({101, 102}), 1000, GIB),)
    hosts = [host(1, "...."), host(2, "..")]
    assert decide(hosts, [ask(1, 2)], idle).placements[0].gpu_ids == (101, 102)
    assert decide(hosts, [ask(1, 2, cpu_milli=2000)], idle).placements[0].gpu_ids == (200, 201)
    assert decide(hosts[:1], [ask(1, 2, cpu_milli=2000)], idle).placements[0].gpu_ids == (100, 103)
    assert decide([host(1, "x..x")], [ask(1, 1)], idle).placements[0].gpu_ids == (101,)
    assert decide([host(1, ".x.."), host(2, "..")], [ask(1, 2)], idle).placements[0].gpu_ids == (200, 201)


def test_an_idle_group_is_given_to_one_only() -> None:
    idle = (IdleGroup("rg", 1, frozenset({100}), 1000, GIB),)
    placements = decide([host(1, "..")], [ask(1), ask(2)], idle).placements
    assert [placement.gpu_ids for placement in placements] == [(100,), (101,)]


def test_many_who_wait_for_one_model_leave_cpu_for_the_other_on_a_mixed_host() -> None:
    a100, h100 = host(1, "xx", cpu=8000), host(1, "..", model=H100)
    mixed = replace(a100, devices=(*a100.devices, *(replace(d, gpu_id=d.gpu_id + 50) for d in h100.devices)))
    decision = decide([mixed], [*(ask(n) for n in range(1, 21)), ask(30, model="H100")])
    assert [placement.allocation_id for placement in decision.placements] == [30]


def test_deciding_is_pure() -> None:
    hosts, queue = [host(1, "..x"), host(2, "x...")], [ask(n, 1 + n % 3) for n in range(1, 8)]
    assert decide(hosts, queue) == decide(hosts, queue[::-1])
