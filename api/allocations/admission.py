"""`queued -> placing -> active`, and back: under the locks, what the loop decided is checked again and written down.

A batch is one transaction with a fixed number of statements, however many placements it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations import devices, groups
from api.allocations.standing import Standing, load_standing
from api.allocations.tables import WAITS
from api.allocations.transitions import Step, move_all
from api.allocations.verdict import Grant, judge
from api.billing.holds import write_holds
from api.billing.journal import Transaction, post_all
from api.pipeline import pipelined
from api.settings import Settings
from scheduler.ports import Admitted, Placement, WaitReason
from scheduler.states import AllocationState
from scheduler.views import Held, Part

ACTOR = "controller"
AT_ONCE = 64
"""Placements that are judged before they are sent: the server writes them while the next ones are judged."""


@dataclass(frozen=True, slots=True)
class Admission:
    """An answer to each placement, and what holds devices now."""

    answers: list[Admitted | WaitReason]
    held: list[Held]


# Among what waits of the same customer.
_POSITIONS = text(
    "select id, position from (select id, row_number() over (partition by customer_id order by priority desc,"
    f" queued_at, id) as position from allocations where {WAITS} and customer_id in"
    " (select customer_id from allocations where id = any(:ids))) waiting where id = any(:ids)"
)


def admit(session: Session, placements: Sequence[Placement], *, settings: Settings, now: datetime) -> Admission:
    """Take placements, in their order, with quota, hold, device rows and the groups' names; or say what stands against
    one.

    Raises:
        sqlalchemy.exc.IntegrityError: a device row of another allocation overlaps (invariant I2).
    """
    standing = load_standing(session, placements, settings=settings, now=now)
    answers: list[Grant | WaitReason] = []
    transactions: list[Transaction] = []
    with pipelined(session):
        for start in range(0, len(placements), AT_ONCE):
            judged = [judge(standing, placement) for placement in placements[start : start + AT_ONCE]]
            transactions += _write(session, standing, [answer for answer in judged if isinstance(answer, Grant)])
            answers += judged
        held = [
            _held(standing, answer, placement, now)
            for placement, answer in zip(placements, answers, strict=True)
            if isinstance(answer, Grant)
        ]
    post_all(session, transactions)
    return Admission(_answers(session, placements, answers), held)


def _write(session: Session, standing: Standing, grants: Sequence[Grant]) -> list[Transaction]:
    """Answers the journal transactions that go with them."""
    if not grants:
        return []
    shares = {(grant.locked.request.allocation_id, grant.generation): grant.shares for grant in grants}
    move_all(session, [_step(grant, standing.now) for grant in grants], AllocationState.PLACING, actor=ACTOR)
    devices.occupy(session, shares, since=standing.locked_at)
    standing.groups.write(session)
    return write_holds(session, standing.wallets, [grant.hold for grant in grants if grant.hold is not None])


def _held(standing: Standing, grant: Grant, placement: Placement, now: datetime) -> Held:
    """As it will be read, with its devices in the order of their index."""
    parts = (
        Part(part.host_id, tuple(sorted(part.devices, key=lambda device: standing.gpus[device[0]].index)))
        for part in placement.parts
    )
    request = replace(grant.locked.request, not_before=None)
    checkpoint_at = grant.locked.checkpoint_at
    return Held(request, AllocationState.PLACING, grant.generation, tuple(parts), now, checkpoint_at)


def _step(grant: Grant, now: datetime) -> Step:
    values: Mapping[str, Any] = {
        "host_id": grant.host_ids[0],
        "host_ids": grant.host_ids,
        "run_until": grant.run_until,
        "placed_at": now,
        "wait_reason": None,
        "not_before": None,
    }
    more = f" and {len(grant.host_ids) - 1} more" if len(grant.host_ids) > 1 else ""
    return Step(
        grant.locked.request.allocation_id,
        AllocationState.QUEUED,
        grant.locked.generation,
        reason=f"host {grant.host_name}{more}",
        values=values,
    )


def _answers(
    session: Session, placements: Sequence[Placement], answers: Sequence[Grant | WaitReason]
) -> list[Admitted | WaitReason]:
    """With what is in the way of new groups, and the places in the queue of those refused."""
    new = {host for answer in answers if isinstance(answer, Grant) and answer.group.new for host in answer.host_ids}
    obstacles = groups.in_the_way(session, sorted(new))
    refused = [p.allocation_id for p, answer in zip(placements, answers, strict=True) if isinstance(answer, WaitReason)]
    positions = _positions(session, refused)
    told: list[Admitted | WaitReason] = []
    for placement, answer in zip(placements, answers, strict=True):
        if isinstance(answer, WaitReason):
            told.append(replace(answer, position=positions.get(placement.allocation_id, 1)))
        elif answer.group.new and (names := obstacles.on(answer.host_ids)):
            told.append(replace(answer.admitted, drop_groups=tuple(sorted(names))))
        else:
            told.append(answer.admitted)
    return told


def _positions(session: Session, allocation_ids: Sequence[int]) -> dict[int, int]:
    if not allocation_ids:
        return {}
    return {key: position for key, position in session.execute(_POSITIONS, {"ids": allocation_ids})}
