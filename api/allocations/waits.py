"""Why requests wait, as the loop has found it, written where it has changed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.bulk import document, recordset
from scheduler.ports import WaitReason

_WRITE = text(
    f"update allocations a set wait_reason = r.reason from {recordset(id='bigint', reason='jsonb')}"
    " where a.id = any(:keys) and a.id = r.id and a.state = 'queued' and a.wait_reason is distinct from r.reason"
)


def record_waits(session: Session, reasons: Mapping[int, WaitReason]) -> None:
    """Write the reasons that have changed, of requests that still wait."""
    rows = [{"id": key, "reason": _shown(reason)} for key, reason in sorted(reasons.items())]
    if rows:
        session.execute(_WRITE, {"rows": document(rows), "keys": list(reasons)})


def _shown(reason: WaitReason) -> dict[str, Any]:  # Any: JSON
    return {
        "code": reason.code,
        "detail": reason.detail,
        "position": reason.position,
        "figures": reason.figures,
        "eta": reason.eta,
        "eta_basis": reason.eta_basis,
    }
