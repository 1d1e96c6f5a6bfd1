"""Writing the audit trail."""

from typing import Any

from sqlalchemy.orm import Session

from api.audit.tables import AuditEntry


def record(
    session: Session,
    *,
    actor: str,
    action: str,
    target: str,
    customer_id: int | None = None,
    address: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add an audit row to the caller's transaction."""
    session.add(
        AuditEntry(
            actor=actor, action=action, target=target, customer_id=customer_id, address=address, details=details or {}
        )
    )
