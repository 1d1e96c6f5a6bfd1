"""Allocations, the placement groups that reserve them in Ray, and the device shares that they own."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Table,
    Text,
    and_,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB, TSTZRANGE, ExcludeConstraint, Range
from sqlalchemy.dialects.postgresql.ranges import MultiRange
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid
from scheduler.states import AllocationState, EndReason

WAITS = "host_id is null and released_at is null"
"""The same as `state = 'queued'`, in the words of the queue's index."""
HOLDS = "host_id is not null and released_at is null"
"""The same as `state in ('placing', 'active', 'releasing')`, in the words of an index."""


class Allocation(Base):
    __tablename__ = "allocations"
    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(s)) for s in AllocationState)})", name="state"),
        CheckConstraint(f"end_reason in ({', '.join(repr(str(r)) for r in EndReason)})", name="end_reason"),
        CheckConstraint("(state = 'released') = (released_at is not null)", name="released_at"),
        CheckConstraint("state not in ('releasing', 'released') or end_reason is not null", name="has_end_reason"),
        CheckConstraint("nodes >= 1 and gpus >= 0 and cpu_milli >= 1 and memory_bytes >= 1", name="request"),
        CheckConstraint("milli between 1 and 1000 and (milli = 1000 or gpus = 1)", name="milli"),
        CheckConstraint("priority between 0 and 1000", name="priority"),
        CheckConstraint("gpu_memory_bytes >= 0 and min_runtime_s >= 0 and limit_s > 0", name="bounds"),
        CheckConstraint("host_id is not distinct from host_ids[1]", name="first_host"),
        CheckConstraint(
            "(state in ('placing', 'active', 'releasing')) = (host_id is not null and released_at is null)",
            name="holds_a_host",
        ),
        # Their conditions do not name the state: so a step between states that hold something touches no index.
        Index("ix_allocations_queue", "customer_id", "priority", "queued_at", postgresql_where=text(WAITS)),
        Index("ix_allocations_holding", "customer_id", postgresql_where=text(HOLDS)),
        Index("ix_allocations_holding_host", "host_id", postgresql_where=text(HOLDS)),
        Index("ix_allocations_holding_hosts", "id", postgresql_where=text(f"{HOLDS} and nodes > 1")),
        Index("ix_allocations_customer", "customer_id", "id"),
        Index("ix_allocations_gangs_without_devices", "id", postgresql_where=text("nodes > 1 and gpus = 0")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[str] = mapped_column(server_default="environment")  # what asked for it
    state: Mapped[str] = mapped_column(server_default=AllocationState.QUEUED)
    end_reason: Mapped[str | None]
    end_detail: Mapped[str | None]
    generation: Mapped[int] = mapped_column(server_default=text("0"))  # rises at each placing: the fencing token

    # what was asked for: `gpus` devices (0: none), CPU, memory and disk on each of `nodes` hosts
    nodes: Mapped[int] = mapped_column(server_default=text("1"))
    gpus: Mapped[int]
    milli: Mapped[int] = mapped_column(server_default=text("1000"))  # of each device: 1000 for whole ones
    gpu_models: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # alternatives; none: any model
    gpu_memory_bytes: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # of a device, at least
    # conditions on the hosts' labels: [{"label", "operator", "values"}, ...]
    selectors: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")
    driver_min: Mapped[str | None]  # dotted versions
    cuda_min: Mapped[str | None]
    apart: Mapped[str | None]  # those of a customer with the same word share no host
    within_level: Mapped[str | None]  # the host label whose value all hosts of a gang must share
    cpu_milli: Mapped[int] = mapped_column(BigId)
    memory_bytes: Mapped[int] = mapped_column(BigId)
    disk_bytes: Mapped[int] = mapped_column(BigId)
    bound_host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"))  # hard affinity: its volume lives there
    image_reference: Mapped[str]
    container_name: Mapped[str]
    home_volume: Mapped[str | None]
    disconnect_s: Mapped[int]
    grace_s: Mapped[int | None]  # from the word that it has to end to the end; null: the platform's own
    shm_bytes: Mapped[int | None] = mapped_column(BigId)  # of the memory; null: half of it

    # how it is queued, and when it gives way
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    capacity_group_id: Mapped[int | None] = mapped_column(ForeignKey("capacity_groups.id"))
    reservation_id: Mapped[int | None] = mapped_column(ForeignKey("reservations.id"))  # it starts in no other place
    preemptible: Mapped[bool] = mapped_column(server_default=text("false"))
    min_runtime_s: Mapped[int] = mapped_column(server_default=text("0"))  # it is not preempted before
    limit_s: Mapped[int | None]  # it is ended when so long has passed since it was placed
    checkpoint_at: Mapped[datetime | None] = mapped_column(Moment)  # up to when its work is safe

    # why it waits, after the last cycle that looked at it: {"code", "detail", "position", ...}
    wait_reason: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    not_before: Mapped[datetime | None] = mapped_column(Moment)  # set after a failed placement, with back-off

    # what it got
    host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"), index=True)  # the first of `host_ids`
    host_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")  # in the order of ranks
    run_until: Mapped[datetime | None] = mapped_column(Moment)
    queued_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    placed_at: Mapped[datetime | None] = mapped_column(Moment)
    active_at: Mapped[datetime | None] = mapped_column(Moment)
    releasing_at: Mapped[datetime | None] = mapped_column(Moment)
    released_at: Mapped[datetime | None] = mapped_column(Moment)

    @classmethod
    def waits(cls) -> ColumnElement[bool]:
        """`WAITS`, for queries that look for what is queued."""
        return and_(cls.host_id.is_(None), cls.released_at.is_(None))

    @classmethod
    def holds(cls) -> ColumnElement[bool]:
        """`HOLDS`, for queries that look for what holds devices."""
        return and_(cls.host_id.is_not(None), cls.released_at.is_(None))


class AllocationEvent(Base):
    """Append-only: one row per transition."""

    __tablename__ = "allocation_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    allocation_id: Mapped[int] = mapped_column(ForeignKey("allocations.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")


class PlacementGroup(Base):
    """A reservation in Ray, named before it exists there, so that a crash in between is repaired by looking it up.

    `intended` (may exist) -> `reserved` (does) -> `removing` (nobody's; may exist) -> `removed`. A reserved group with
    no owner is idle: it holds resources in Ray, and no device. Only a group on a single host is handed on.
    """

    __tablename__ = "placement_groups"
    __table_args__ = (
        CheckConstraint("state in ('intended', 'reserved', 'removing', 'removed')", name="state"),
        CheckConstraint("state not in ('removing', 'removed') or allocation_id is null", name="no_owner"),
        CheckConstraint("state <> 'intended' or allocation_id is not null", name="owner"),
        Index("uq_placement_groups_owner", "allocation_id", unique=True, postgresql_where=text("state <> 'removed'")),
        CheckConstraint("host_id = host_ids[1]", name="first_host"),
        Index("ix_placement_groups_live", "host_id", postgresql_where=text("state <> 'removed'")),
        Index("ix_placement_groups_idle", "idle_since", postgresql_where=text("idle_since is not null")),
        Index("ix_placement_groups_removing", "id", postgresql_where=text("state = 'removing'")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    name: Mapped[str] = mapped_column(unique=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"))
    host_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))  # one bundle on each, in the order of ranks
    allocation_id: Mapped[int | None] = mapped_column(ForeignKey("allocations.id"))  # the owner; it may be handed on
    state: Mapped[str] = mapped_column(server_default="intended")
    gpu_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))  # sorted
    cpu_milli: Mapped[int] = mapped_column(BigId)  # of each bundle
    memory_bytes: Mapped[int] = mapped_column(BigId)
    idle_since: Mapped[datetime | None] = mapped_column(Moment)  # `reserved` without an owner
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    removed_at: Mapped[datetime | None] = mapped_column(Moment)


class AllocationDevice(Base):
    """A share of a device, owned by an allocation for a period that is open until release is confirmed.

    Devices are never deleted; a foreign key would lock and write the device's row with each share that is taken.
    """

    __tablename__ = "allocation_devices"
    __table_args__ = (
        Index("ix_allocation_devices_held", "gpu_id", postgresql_where=text("upper_inf(period)")),
        CheckConstraint("0 <= milli_from and milli_from < milli_to and milli_to <= 1000", name="milli"),
    )
    allocation_id: Mapped[int] = mapped_column(ForeignKey("allocations.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    gpu_id: Mapped[int] = mapped_column(BigId, primary_key=True, index=True)
    milli_from: Mapped[int] = mapped_column(server_default=text("0"), primary_key=True)
    milli_to: Mapped[int] = mapped_column(server_default=text("1000"))
    period: Mapped[Range[datetime]] = mapped_column(TSTZRANGE)


class DeviceClaim(Base):
    """All that an allocation has open in `allocation_devices`, which triggers there keep in step.

    The exclusion constraint makes double booking impossible. It puts the shares of all devices on one line, a thousand
    for each: so an allocation costs one entry of its index, however many devices it has.
    """

    __tablename__ = "device_claims"
    __table_args__ = (ExcludeConstraint((text("shares"), "&&"), name="ex_device_claims_one_owner", using="gist"),)
    allocation_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    shares: Mapped[MultiRange[int]] = mapped_column(INT8MULTIRANGE)


class Leadership(Base):
    """One row: the epoch of the controller that leads. Every transaction of its store checks that it still does."""

    __tablename__ = "leadership"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigId)
    holder: Mapped[str]
    since: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


SCHEDULER_CHANGES = Table(
    "scheduler_changes",
    Base.metadata,
    Column("kind", Text, nullable=False),
    Column("key", BigInteger, nullable=False),
    prefixes=["UNLOGGED"],
)
"""What the scheduling loop has yet to hear of: rows written by triggers, deleted by the store that reads them.

Unlogged, since a crash of the server that empties it also ends the leader's connection: the next one reads everything.
"""
