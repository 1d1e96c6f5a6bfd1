"""What the platform takes a host to be, from its signs of life. Pure: the time is passed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scheduler.states import DeviceStatus


@dataclass(frozen=True, slots=True)
class Judgement:
    status: DeviceStatus
    reason: str


def judge(
    *,
    heartbeat_at: datetime,
    now: datetime,
    unreachable_after_s: float,
    in_ray: bool,
    problems: Sequence[str],
) -> Judgement:
    """`unreachable` without a recent heartbeat, `degraded` when something that new work needs is missing."""
    silence_s = (now - heartbeat_at).total_seconds()
    if silence_s > unreachable_after_s:
        return Judgement(DeviceStatus.UNREACHABLE, f"no heartbeat for {silence_s:.1f} s")
    if problems:
        return Judgement(DeviceStatus.DEGRADED, "; ".join(problems)[:500])
    if not in_ray:
        return Judgement(DeviceStatus.DEGRADED, "Ray does not report the host alive")
    return Judgement(DeviceStatus.ONLINE, "heartbeat")


def may_be_lost(
    *,
    heartbeat_at: datetime,
    now: datetime,
    unreachable_after_s: float,
    lost_margin_s: float,
    last_run_until: datetime | None,
) -> bool:
    """Whether nothing can still run on a silent host, which ends leases at `run_until` by itself, within the margin."""
    margin = timedelta(seconds=lost_margin_s)
    silent = heartbeat_at + timedelta(seconds=unreachable_after_s) + margin < now
    return silent and (last_run_until is None or last_run_until + margin < now)
