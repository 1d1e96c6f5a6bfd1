"""Reading capacity groups: a customer's only by that customer's id, with what is held and waiting in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.capacity.tables import CapacityGroup
from api.errors import Unprocessable
from api.tenants.tables import Customer
from scheduler.states import AllocationState

_HOLDING = (AllocationState.PLACING, AllocationState.ACTIVE, AllocationState.RELEASING)


@dataclass(frozen=True, slots=True)
class Use:
    """Thousandths of GPUs that are charged to a group."""

    held_milli: int = 0
    waiting_milli: int = 0


def all_groups() -> Select[*tuple[Any, ...]]:
    """Every group with its customer; for administrators."""
    return select(CapacityGroup, Customer).join(Customer, Customer.id == CapacityGroup.customer_id)


def of_customer(customer_id: int) -> Select[*tuple[Any, ...]]:
    return all_groups().where(CapacityGroup.customer_id == customer_id)


def uses(session: Session, group_ids: Sequence[int]) -> dict[int, Use]:
    milli = Allocation.nodes * Allocation.gpus * Allocation.milli
    query = (
        select(
            Allocation.capacity_group_id,
            _sum(milli, Allocation.state.in_(_HOLDING)),
            _sum(milli, Allocation.state == AllocationState.QUEUED),
        )
        .where(Allocation.capacity_group_id.in_(group_ids), Allocation.state != AllocationState.RELEASED)
        .group_by(Allocation.capacity_group_id)
    )
    rows = session.execute(query)
    return {group_id: Use(int(held), int(waiting)) for group_id, held, waiting in rows if group_id is not None}


def find_named(session: Session, *, customer_id: int, name: str) -> CapacityGroup:
    """A customer's own group, which stays until the caller's transaction has ended.

    Raises:
        Unprocessable: `unknown_capacity_group`.
    """
    query = select(CapacityGroup).where(CapacityGroup.customer_id == customer_id, CapacityGroup.name == name)
    group = session.scalar(query.with_for_update(read=True, key_share=True))
    if group is None:
        raise Unprocessable(f"Your customer has no capacity group {name!r}.", code="unknown_capacity_group")
    return group


def reach_milli(session: Session, group: CapacityGroup) -> int:
    """The most that the group could ever hold: its own, and what its cohort may lend it."""
    if group.cohort is None:
        return group.nominal_milli
    others = session.scalars(
        select(CapacityGroup).where(CapacityGroup.cohort == group.cohort, CapacityGroup.id != group.id)
    )
    lent = sum(
        other.nominal_milli
        if other.lending_limit_milli is None
        else min(other.nominal_milli, other.lending_limit_milli)
        for other in others
    )
    return group.nominal_milli + (
        lent if group.borrowing_limit_milli is None else min(lent, group.borrowing_limit_milli)
    )


def _sum(milli: ColumnElement[int], condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, milli), else_=0)), 0)
