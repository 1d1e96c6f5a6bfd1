"""A host's heartbeat: it proves that the host lives, renews its leases, and carries what became of its containers.

Each lease is renewed in a transaction of its own, so that no two rows of a kind are locked at once; most need none.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from api.allocations.devices import holding_on
from api.allocations.expiry import EnforcedEnd, enforced_end
from api.allocations.service import request_end
from api.allocations.tables import Allocation
from api.billing.holds import extend_hold
from api.clock import to_ms, utc_now
from api.db import Database
from api.environments import observation
from api.errors import Conflict
from api.ids import parse_uid
from api.machines.peers import peer_list
from api.machines.status import judge
from api.machines.tables import Gpu, Host
from api.machines.transitions import observe
from api.settings import Settings
from api.tasks import observation as attempts
from scheduler.host_protocol import Heartbeat, HeartbeatReply, HeldLease, LeaseVerdict
from scheduler.states import AllocationState, DeviceStatus, EndReason

MAX_PROBLEMS = 20
FRESH = 0.95
"""A lease that still has this share of its disconnect limit is not renewed: a host asks every second or two."""
FORGOTTEN_AFTER = timedelta(seconds=15)  # a grant reaches the daemon long before


def receive(
    database: Database, settings: Settings, *, host_id: int, beat: Heartbeat, now: datetime | None = None
) -> HeartbeatReply:
    """Take a heartbeat over and answer for every lease that the host holds.

    Raises:
        Conflict: `not_registered`, the host has booted since it last registered.
    """
    now = now or utc_now()
    host_uid = database.transact(partial(_hear, settings=settings, host_id=host_id, beat=beat, now=now))
    actor = f"host:{host_uid}"
    with database.session() as session:
        said = attempts.news(session, host_id=host_id, reports=beat.attempts, now=now)
    for seen in said:  # before the endings, which say less
        database.transact(partial(attempts.take, host_id=host_id, seen=seen, actor=actor))
    for ending in beat.endings:  # before the containers' reports, which say less
        database.transact(partial(observation.ended_by_host, host_id=host_id, ending=ending, actor=actor))
    with database.session() as session:
        news = observation.news(session, host_id=host_id, reports=beat.containers)
    for report in news:
        database.transact(partial(observation.container_reported, host_id=host_id, report=report, actor=actor))
    with database.session() as session:
        fresh = _fresh(session, host_id=host_id, leases=beat.leases, now=now)
    verdicts = tuple(
        fresh.get((lease.allocation_uid, lease.generation))
        or database.transact(partial(_verdict, host_id=host_id, lease=lease, actor=actor, now=now))
        for lease in beat.leases
    )
    _end_forgotten(database, host_id=host_id, beat=beat, actor=actor, now=now)
    with database.session() as session:
        peers = peer_list(session, known_version=beat.peers_version)
    return HeartbeatReply(server_time_ms=to_ms(now), verdicts=verdicts, peers=peers)


def _hear(session: Session, *, settings: Settings, host_id: int, beat: Heartbeat, now: datetime) -> UUID:
    """Before any lease is renewed: a host that is being declared lost must be seen alive first."""
    host = session.get_one(Host, host_id, with_for_update=True)
    if host.boot_id != beat.boot_id:
        raise Conflict("Register first: this boot has not registered.", code="not_registered")
    host.heartbeat_at = now
    problems = list(beat.problems[:MAX_PROBLEMS])
    if host.problems != problems:
        host.problems = problems
    judgement = judge(
        heartbeat_at=now,
        now=now,
        unreachable_after_s=settings.unreachable_after_s,
        in_ray=host.ray_node_id is not None,
        problems=problems,
    )
    observe(session, host, judgement.status, actor=f"host:{host.uid}", reason=judgement.reason)
    _write_readings(session, host, beat, now)
    return host.uid


def _write_readings(session: Session, host: Host, beat: Heartbeat, now: datetime) -> None:
    rows = [
        {"of_uuid": reading.uuid, "reading": asdict(reading), "healthy": reading.healthy, "reading_at": now}
        for reading in beat.readings
    ]
    if rows:
        statement = update(Gpu.__table__).where(  # type: ignore[arg-type]  # a declarative class's Table
            Gpu.host_id == host.id, Gpu.uuid == bindparam("of_uuid")
        )
        session.execute(
            statement.values(
                reading=bindparam("reading"), healthy=bindparam("healthy"), reading_at=bindparam("reading_at")
            ),
            rows,
        )


def _fresh(
    session: Session, *, host_id: int, leases: Sequence[HeldLease], now: datetime
) -> dict[tuple[str, int], LeaseVerdict]:
    """Verdicts, by uid and generation, on those that were renewed so lately that hardly anything would be gained."""
    if not leases:
        return {}
    query = select(
        Allocation.uid, Allocation.generation, Allocation.host_ids, Allocation.run_until, Allocation.disconnect_s
    ).where(
        Allocation.uid.in_([parse_uid(lease.allocation_uid) for lease in leases]),
        Allocation.state.in_((AllocationState.PLACING, AllocationState.ACTIVE)),
    )
    return {
        (str(uid), generation): LeaseVerdict(str(uid), generation, run_until_ms=to_ms(run_until), end=False)
        for uid, generation, host_ids, run_until, disconnect_s in session.execute(query)
        if host_id in host_ids and run_until is not None and run_until - now > FRESH * timedelta(seconds=disconnect_s)
    }


def _verdict(session: Session, *, host_id: int, lease: HeldLease, actor: str, now: datetime) -> LeaseVerdict:
    """Renew a lease of the current generation as far as it is paid for; every other one must end (invariant I4)."""
    ended = LeaseVerdict(lease.allocation_uid, lease.generation, run_until_ms=to_ms(now), end=True)
    uid = parse_uid(lease.allocation_uid)
    allocation = session.scalar(select(Allocation).where(Allocation.uid == uid).with_for_update())
    if allocation is None or allocation.generation != lease.generation or host_id not in allocation.host_ids:
        return ended
    if allocation.state == AllocationState.RELEASING and allocation.grace_s is not None:
        return _leaving(session, allocation, now)
    if allocation.state not in (AllocationState.PLACING, AllocationState.ACTIVE):
        return ended
    promised = allocation.run_until or now
    end = enforced_end(session, allocation)
    if promised < now or (end is not None and end.at <= now):
        _end_overdue(session, allocation, end, actor=actor, now=now)
        return ended
    limit = timedelta(seconds=allocation.disconnect_s)
    if len(allocation.host_ids) == 1 or _all_answer(session, allocation):
        # Twice the limit, so that the limit itself is always covered while the money lasts.
        paid_until = extend_hold(session, allocation, until=now + 2 * limit)
        renewed = min(now + limit, paid_until, end.at if end is not None else paid_until)
        # Never earlier than what the host was told before: `lost` counts on it.
        allocation.run_until = promised = max(promised, renewed)
    return LeaseVerdict(lease.allocation_uid, lease.generation, run_until_ms=to_ms(promised), end=False)


def _leaving(session: Session, allocation: Allocation, now: datetime) -> LeaseVerdict:
    """It must end, but has its grace, in which it is renewed as before while it is paid for.

    Whoever tells it first, this or the controller's order, it is told the same.
    """
    limit = timedelta(seconds=allocation.disconnect_s)
    ends = (allocation.releasing_at or now) + timedelta(seconds=allocation.grace_s or 0)
    promised = allocation.run_until or now
    if promised > now and (len(allocation.host_ids) == 1 or _all_answer(session, allocation)):
        paid_until = extend_hold(session, allocation, until=now + 2 * limit)
        allocation.run_until = promised = max(promised, min(now + limit, paid_until, ends + limit))
    return LeaseVerdict(
        str(allocation.uid),
        allocation.generation,
        run_until_ms=to_ms(promised),
        end=True,
        grace_s=max(0.0, (ends - now).total_seconds()),
        reason=allocation.end_reason or "",
    )


def _all_answer(session: Session, allocation: Allocation) -> bool:
    """Whether none of a gang's hosts is silent. The others' word must not keep it from running out, and being lost."""
    silent = select(Host.id).where(
        Host.id.in_(allocation.host_ids), Host.device_status.not_in((DeviceStatus.ONLINE, DeviceStatus.DEGRADED))
    )
    return session.scalar(silent.limit(1)) is None


def _end_overdue(
    session: Session, allocation: Allocation, end: EnforcedEnd | None, *, actor: str, now: datetime
) -> None:
    """It has run for as long as it may, or its lease ran out: the money ended, or the host was cut off for too long."""
    limit = timedelta(seconds=allocation.disconnect_s)
    if end is not None and end.at <= now:
        end_reason, reason = EndReason.EXPIRED, end.reason
    elif extend_hold(session, allocation, until=now + 2 * limit) <= now:
        end_reason, reason = EndReason.UNPAID, "the balance does not cover another period"
    else:
        end_reason, reason = EndReason.EXPIRED, "the host was cut off for longer than the lease allows"
    session.flush()
    request_end(session, allocation, end_reason=end_reason, actor=actor, reason=reason)


def _end_forgotten(database: Database, *, host_id: int, beat: Heartbeat, actor: str, now: datetime) -> None:
    """End active allocations that the host itself says it does not hold: their containers are gone."""
    held = {(lease.allocation_uid, lease.generation) for lease in beat.leases}
    query = select(Allocation).where(
        holding_on(host_id),
        Allocation.state == AllocationState.ACTIVE,
        Allocation.active_at < now - FORGOTTEN_AFTER,
    )
    with database.session() as session:
        forgotten = [a for a in session.scalars(query) if (str(a.uid), a.generation) not in held]
    for allocation in forgotten:
        database.transact(partial(_end_one_forgotten, allocation_id=allocation.id, actor=actor, now=now))


def _end_one_forgotten(session: Session, *, allocation_id: int, actor: str, now: datetime) -> None:
    allocation = session.get_one(Allocation, allocation_id, with_for_update=True)
    if allocation.run_until is not None and allocation.run_until < now:
        _end_overdue(session, allocation, enforced_end(session, allocation), actor=actor, now=now)
        return
    reason = "the host does not hold its lease any more"
    request_end(session, allocation, end_reason=EndReason.HOST_LOST, actor=actor, reason=reason)
