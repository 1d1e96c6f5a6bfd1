"""What a host is taken to be, from its signs of life."""

from datetime import UTC, datetime, timedelta

import pytest

from api.machines.status import judge, may_be_lost
from scheduler.states import DeviceStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("silent_s", "in_ray", "problems", "expected"),
    [
        (1, True, [], DeviceStatus.ONLINE),
        (8, True, [], DeviceStatus.ONLINE),
        (8.1, True, [], DeviceStatus.UNREACHABLE),
        (1, False, [], DeviceStatus.DEGRADED),
        (1, True, ["docker"], DeviceStatus.DEGRADED),
        (100, False, ["docker"], DeviceStatus.UNREACHABLE),
    ],
)
def test_judgement(silent_s: float, in_ray: bool, problems: list[str], expected: DeviceStatus) -> None:
    judged = judge(heartbeat_at=ago(silent_s), now=NOW, unreachable_after_s=8, in_ray=in_ray, problems=problems)
    assert judged.status is expected
    assert judged.reason


@pytest.mark.parametrize(
    ("silent_s", "run_until_s", "lost"),
    [
        (23, None, False),  # 8 s of silence and the margin of 15 s have not passed
        (24, None, True),
        (1000, -15, False),  # the last lease ran out exactly a margin ago
        (1000, -16, True),
        (1000, 5, False),
    ],
)
def test_lost_only_when_nothing_can_run(silent_s: float, run_until_s: float | None, lost: bool) -> None:
    run_until = None if run_until_s is None else NOW + timedelta(seconds=run_until_s)
    assert lost == may_be_lost(
        heartbeat_at=ago(silent_s), now=NOW, unreachable_after_s=8, lost_margin_s=15, last_run_until=run_until
    )
