"""How long the money lasts, as the Hub's home page says it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from hub.money import ending

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def run_time(runs_out_at: str | None, *, warned: bool = True) -> dict[str, Any]:
    return {"warnings": [{"threshold_s": 3600}] if warned else [], "runs_out_at": runs_out_at}


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2026-11-26T12:45:59Z", "another 45 min of what runs, until 2026-11-26 12:45 UTC"),
        ("2026-11-26T19:30:00+01:00", "another 6 h of what runs, until 2026-11-26 18:30 UTC"),
        ("2026-11-26T11:59:00Z", "another 0 min "),
    ],
)
def test_a_warning_says_how_long_and_until_when(at: str, said: str) -> None:
    assert said in ending(run_time(at), now=NOW)


@pytest.mark.parametrize(
    "found", [None, run_time(None), run_time("2026-11-26T12:45:00Z", warned=False)], ids=["admin", "idle", "enough"]
)
def test_without_a_warning_nothing_is_said(found: dict[str, Any] | None) -> None:
    assert ending(found, now=NOW) == ""
