"""Moving a host along its two state machines: the only code that assigns them."""

from sqlalchemy.orm import Session

from api.machines.tables import Host, HostEvent
from api.transition import apply_state
from scheduler.states import ADMIN_STATE, DEVICE_STATUS, AdminState, DeviceStatus


def observe(session: Session, host: Host, target: DeviceStatus, *, actor: str, reason: str = "") -> None:
    """Set what was observed of a host; nothing happens if it is that already. The caller has locked the row."""
    if host.device_status == target:
        return
    event = HostEvent(host_id=host.id, actor=actor, kind="device_status", reason=reason)
    apply_state(session, host, column="device_status", table=DEVICE_STATUS, target=target, event=event)


def administer(session: Session, host: Host, target: AdminState, *, actor: str, reason: str = "") -> None:
    """Set what the operator wants of a host; nothing happens if it is that already. The caller has locked the row."""
    if host.admin_state == target:
        return
    event = HostEvent(host_id=host.id, actor=actor, kind="admin_state", reason=reason)
    apply_state(session, host, column="admin_state", table=ADMIN_STATE, target=target, event=event)
