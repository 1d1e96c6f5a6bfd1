"""How long the money lasts, in words for its user."""

from datetime import UTC, datetime

from hub.platform_client import Json


def ending(run_time: Json | None, *, now: datetime) -> str:
    """A sentence where a warning stands and something runs; else empty."""
    if run_time is None or not run_time["warnings"] or run_time["runs_out_at"] is None:
        return ""
    at = datetime.fromisoformat(run_time["runs_out_at"]).astimezone(UTC)
    minutes = max(0, int((at - now).total_seconds()) // 60)
    left = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return f"Your balance lasts for another {left} of what runs, until {at:%Y-%m-%d %H:%M} UTC; then that is ended."
