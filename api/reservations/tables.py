"""Advance reservations: devices set aside for a customer from one moment to another, in a calendar without overlaps."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import TSTZRANGE, ExcludeConstraint, Range
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid
from scheduler.states import ReservationState


class Reservation(Base):
    """`gpus` whole devices, CPU and memory on each of `nodes` hosts. Those of a recurring one share a `series_uid`."""

    __tablename__ = "reservations"
    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(s)) for s in ReservationState)})", name="state"),
        CheckConstraint("starts_at < ends_at", name="period"),
        CheckConstraint("nodes >= 1 and gpus >= 1 and cpu_milli >= 1 and memory_bytes >= 1", name="request"),
        Index("ix_reservations_booked", "ends_at", postgresql_where=text("state = 'booked'")),
        Index("ix_reservations_customer", "customer_id", "id"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    series_uid: Mapped[UUID | None]
    state: Mapped[str] = mapped_column(server_default=ReservationState.BOOKED)
    starts_at: Mapped[datetime] = mapped_column(Moment)
    ends_at: Mapped[datetime] = mapped_column(Moment)
    nodes: Mapped[int] = mapped_column(server_default=text("1"))
    gpus: Mapped[int]
    cpu_milli: Mapped[int] = mapped_column(BigId)
    memory_bytes: Mapped[int] = mapped_column(BigId)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)


class ReservationDevice(Base):
    """A whole device of a reservation. The exclusion constraint keeps the calendar free of overlaps.

    Cancelling closes the period: what lies ahead is free again. Ids are ranges as in `allocation_devices`.
    """

    __tablename__ = "reservation_devices"
    __table_args__ = (
        ExcludeConstraint(
            (func.int8range(text("gpu_id"), text("gpu_id"), text("'[]'")), "&&"),
            (text("period"), "&&"),
            name="ex_reservation_devices_one_owner",
            using="gist",
        ),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    reservation_id: Mapped[int] = mapped_column(ForeignKey("reservations.id"), index=True)
    gpu_id: Mapped[int] = mapped_column(ForeignKey("gpus.id"), index=True)
    period: Mapped[Range[datetime]] = mapped_column(TSTZRANGE)
