"""Capacity groups: what an administrator does with them."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.allocations.transitions import notify
from api.audit.service import record
from api.capacity import repository
from api.capacity.schemas import CapacityGroupChange, CapacityGroupCreate, CapacityGroupOut
from api.capacity.tables import CapacityGroup
from api.errors import Conflict, NotFound
from api.principal import Principal
from api.tenants import customers
from api.tenants.tables import Customer
from scheduler.gpu_model import words
from scheduler.states import AllocationState

_COHORT_LOCK = 7_301_012  # one group enters a cohort at a time, so that each sees the models of those before


def create(session: Session, principal: Principal, wanted: CapacityGroupCreate) -> CapacityGroupOut:
    """Add a group.

    Raises:
        NotFound: there is no such customer.
        Conflict: `capacity_group_exists`, `capacity_cohort_model`.
    """
    customer = customers.find(session, wanted.customer)
    _check_cohort(session, wanted.cohort, wanted.gpu_model)
    group = CapacityGroup(customer_id=customer.id, **wanted.model_dump(exclude={"customer"}))
    try:
        with session.begin_nested():
            session.add(group)
            session.flush()
    except IntegrityError as error:
        raise Conflict(f"There is a capacity group {wanted.name!r} already.", code="capacity_group_exists") from error
    session.refresh(group)
    _audit(session, principal, group, "create", wanted.model_dump(mode="json"))
    notify(session)
    return views(session, [(group, customer)])[0]


def change(session: Session, principal: Principal, uid: UUID, wanted: CapacityGroupChange) -> CapacityGroupOut:
    """Change what is named. What runs stays, also above a lower figure.

    Raises:
        NotFound
        Conflict: `capacity_cohort_model`.
    """
    group, customer = find(session, uid, lock=True)
    if "cohort" in wanted.model_fields_set:
        _check_cohort(session, wanted.cohort, group.gpu_model)
    for name, value in wanted.model_dump(exclude_unset=True).items():
        setattr(group, name, value)
    _audit(session, principal, group, "change", wanted.model_dump(mode="json", exclude_unset=True))
    session.flush()
    notify(session)
    return views(session, [(group, customer)])[0]


def remove(session: Session, principal: Principal, uid: UUID) -> None:
    """Take a group away. What ended long ago forgets that it was charged to it; the audit trail does not.

    Raises:
        NotFound
        Conflict: `capacity_group_in_use`, something waits or runs in it.
    """
    group, _ = find(session, uid, lock=True)
    charged = Allocation.capacity_group_id == group.id
    live = select(Allocation.id).where(charged, Allocation.state != AllocationState.RELEASED)
    if session.scalar(live.limit(1)) is not None:
        raise Conflict("Something waits or runs in it: end that first.", code="capacity_group_in_use")
    _audit(session, principal, group, "delete", {"name": group.name, "nominal_milli": group.nominal_milli})
    session.execute(update(Allocation).where(charged).values(capacity_group_id=None))
    session.execute(delete(CapacityGroup).where(CapacityGroup.id == group.id))
    notify(session)


def find(session: Session, uid: UUID, *, lock: bool = False) -> tuple[CapacityGroup, Customer]:
    """Raises NotFound."""
    query = repository.all_groups().where(CapacityGroup.uid == uid)
    row = session.execute(query.with_for_update(of=CapacityGroup) if lock else query).one_or_none()
    if row is None:
        raise NotFound("There is no such capacity group.")
    return row.CapacityGroup, row.Customer


def views(session: Session, groups: list[tuple[CapacityGroup, Customer]]) -> list[CapacityGroupOut]:
    uses = repository.uses(session, [group.id for group, _ in groups])
    return [_view(group, customer, uses.get(group.id, repository.Use())) for group, customer in groups]


def _view(group: CapacityGroup, customer: Customer, use: repository.Use) -> CapacityGroupOut:
    return CapacityGroupOut(
        id=group.uid,
        name=group.name,
        customer_id=customer.uid,
        customer=customer.name,
        cohort=group.cohort,
        gpu_model=group.gpu_model,
        nominal_milli=group.nominal_milli,
        borrowing_limit_milli=group.borrowing_limit_milli,
        lending_limit_milli=group.lending_limit_milli,
        reclaim_within_cohort=group.reclaim_within_cohort,
        preempt_lower_priority=group.preempt_lower_priority,
        held_milli=use.held_milli,
        waiting_milli=use.waiting_milli,
        created_at=group.created_at,
    )


def _check_cohort(session: Session, cohort: str | None, gpu_model: str | None) -> None:
    """What a cohort lends is of one model. Raises Conflict `capacity_cohort_model`."""
    if cohort is None:
        return
    session.execute(select(func.pg_advisory_xact_lock(_COHORT_LOCK)))
    other = session.scalar(select(CapacityGroup).where(CapacityGroup.cohort == cohort).limit(1))
    if other is not None and words(other.gpu_model or "") != words(gpu_model or ""):
        raise Conflict(
            f"The groups of cohort {cohort!r} are of {other.gpu_model or 'any model'}, this one is of "
            f"{gpu_model or 'any'}: groups of one cohort have the same GPU model.",
            code="capacity_cohort_model",
        )


def _audit(
    session: Session, principal: Principal, group: CapacityGroup, action: str, details: dict[str, Any]
) -> None:  # Any: JSON
    record(
        session,
        actor=principal.actor,
        action=f"capacity_group.{action}",
        target=f"capacity_group:{group.uid}",
        customer_id=group.customer_id,
        address=principal.address,
        details=details,
    )
