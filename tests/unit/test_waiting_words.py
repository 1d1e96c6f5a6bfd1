"""What the Hub says of who waits: the place, the reason, and when it may start with what that rests on."""

from datetime import UTC, datetime

import pytest

from hub.pages import home_row
from hub.platform_client import Wait
from hub.waiting import expected_start, waiting_message

ETA = "2026-01-01T14:05:30Z"


def wait(**fields: object) -> Wait:
    return Wait.parse({"code": "no_capacity", "detail": "0 of 8 are free.", "position": 3, **fields})


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        ("reservation", "Expected to start at 14:05 UTC (reservation)."),
        ("limits", "Expected to start at 14:05 UTC (when time limits end)."),
        ("estimate", "Expected to start about 14:05 UTC (estimate)."),
        ("history", "Expected to start about 14:05 UTC (estimate from history)."),
        ("something newer", "Expected to start about 14:05 UTC (estimate)."),
    ],
)
def test_when_it_may_start(basis: str, said: str) -> None:
    message = waiting_message(wait(eta=ETA, eta_basis=basis))
    assert message == f"Waiting, number 3 in the queue: 0 of 8 are free. {said}"


def test_what_nobody_knows_is_said_so() -> None:
    assert waiting_message(wait()).endswith("When it starts is unknown.")
    assert expected_start(Wait.parse({"code": "queued", "detail": "It waits."})) is None
    assert waiting_message(None) == "Waiting for the platform to place this environment."


def test_a_page_gets_the_moment_for_its_browser() -> None:
    expected = expected_start(wait(eta="2026-01-01T15:05:30+01:00", eta_basis="estimate"))
    assert expected is not None
    assert expected.at == datetime(2026, 1, 1, 14, 5, 30, tzinfo=UTC)
    assert (expected.iso, expected.utc) == ("2026-01-01T14:05:30+00:00", "2026-01-01 14:05 UTC")


def test_the_home_page_says_that_it_gave_way_and_why_it_waits() -> None:
    entry = {
        "name": "lab", "image": "base", "gpus": 1, "gpu_milli": 460, "gpu_model": "A100 or H100", "observed": "queued",
        "desired": "running", "devices": [], "last_error": "It gave way; queued again.",
        "wait": {"code": "no_capacity", "detail": "0 of 8 are free.", "position": 1, "eta": ETA, "eta_basis": "limits"},
    }  # fmt: skip
    row = home_row(entry, ready=False)
    assert row["note"] == "It gave way; queued again. Waiting, number 1 in the queue: 0 of 8 are free."
    assert (row["gpus"], row["expected"].basis) == ("0.46 x A100 or H100", "when time limits end")
    assert home_row({**entry, "gpus": 0, "gpu_milli": 1000, "gpu_model": None}, ready=False)["gpus"] == "no GPU"
