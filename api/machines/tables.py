"""Hosts, their GPUs, what happened to them, and the credentials with which they join."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid
from scheduler.states import AdminState, DeviceStatus


def _values(enum: type[AdminState] | type[DeviceStatus]) -> str:
    return ", ".join(f"'{member}'" for member in enum)


class Host(Base):
    """A GPU host. Its facts are what it registered itself."""

    __tablename__ = "hosts"
    __table_args__ = (
        CheckConstraint(f"device_status in ({_values(DeviceStatus)})", name="device_status"),
        CheckConstraint(f"admin_state in ({_values(AdminState)})", name="admin_state"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    name: Mapped[str] = mapped_column(unique=True)
    device_status: Mapped[str] = mapped_column(server_default=DeviceStatus.UNKNOWN)
    admin_state: Mapped[str] = mapped_column(server_default=AdminState.AVAILABLE)
    simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    cpu_milli: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    memory_bytes: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    disk_bytes: Mapped[int] = mapped_column(BigId, server_default=text("0"))
    address: Mapped[str | None]
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, server_default="{}")
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    problems: Mapped[list[str]] = mapped_column(JSONB, server_default="[]")
    boot_id: Mapped[str | None]
    ray_node_id: Mapped[str | None]  # as Ray reports it alive; written by the controller
    heartbeat_at: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))


class Gpu(Base):
    """A device; its integer id is what the exclusion constraint on device shares ranges over."""

    __tablename__ = "gpus"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"), index=True)
    index: Mapped[int]
    uuid: Mapped[str] = mapped_column(unique=True)  # NVML's UUID, or a simulated one
    model: Mapped[str]
    memory_bytes: Mapped[int] = mapped_column(BigId)
    pci_bus_id: Mapped[str | None]
    nvlink_peer_uuids: Mapped[list[str]] = mapped_column(JSONB, server_default="[]")
    mig_enabled: Mapped[bool | None]
    simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    present: Mapped[bool] = mapped_column(server_default=text("true"))
    healthy: Mapped[bool] = mapped_column(server_default=text("true"))
    reading: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    reading_at: Mapped[datetime | None] = mapped_column(Moment)


class HostEvent(Base):
    """Append-only: one row per transition of a host, and other things worth knowing of it."""

    __tablename__ = "host_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    kind: Mapped[str]  # "device_status", "admin_state", "registered", ...
    from_state: Mapped[str | None]
    to_state: Mapped[str | None]
    reason: Mapped[str] = mapped_column(server_default="")


class EnrolmentToken(Base):
    __tablename__ = "enrolment_tokens"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"))  # the host that joins again; null: a new one
    description: Mapped[str] = mapped_column(server_default="")
    uses_left: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)


class Certificate(Base):
    """A certificate that the platform's CA issued; a revoked one is refused at every request."""

    __tablename__ = "certificates"
    __table_args__ = (Index("ix_certificates_subject", "role", "host_id"),)
    serial: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]  # "host", "hub" or "controller"
    host_id: Mapped[int | None] = mapped_column(ForeignKey("hosts.id"))
    issued_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    expires_at: Mapped[datetime] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)
