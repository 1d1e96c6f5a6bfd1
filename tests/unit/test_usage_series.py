"""Windows are screened together exactly as each would be alone, and nothing of them is lost on the way."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.metering.screening import Grant, OwnedDevice, Quarantine, screen
from api.metering.series import MAX_WINDOWS, Screened, refuse, screen_series, series_of
from scheduler.host_protocol import UsageWindow
from scheduler.intervals import Span, union

HOST, RECEIVED_MS = 7, 60_000
DEVICES = {"GPU-1": OwnedDevice(1, HOST, 1000), "GPU-2": OwnedDevice(2, HOST, 500), "GPU-3": OwnedDevice(3, 8, 1000)}

moments = st.one_of(st.none(), st.integers(0, 80_000))
grants = st.one_of(st.none(), st.builds(Grant, st.integers(1, 2), moments, moments, moments, st.just(DEVICES)))


@st.composite
def batches(draw: st.DrawFn) -> list[UsageWindow]:
    """Mostly windows that follow one another; some are out of order, backward, or of something else."""
    windows, at = [], draw(st.integers(0, 50_000))
    for sequence in range(draw(st.integers(1, 12))):
        start = at if draw(st.integers(0, 5)) else draw(st.integers(-2, 70_000))
        at = start + (draw(st.integers(1, 9_000)) if draw(st.integers(0, 9)) else draw(st.integers(-3, 1)))
        odd = not draw(st.integers(0, 5))
        window = UsageWindow(
            boot_id="b",
            sequence=sequence,
            allocation_uid="a",
            generation=draw(st.integers(1, 2)) if odd else 1,
            container_id="c",
            device_uuid=draw(st.sampled_from(["GPU-1", "GPU-2", "GPU-3", "GPU-4"])) if odd else "GPU-1",
            milli=draw(st.sampled_from([1000, 500, 0])) if odd else 1000,
            from_ms=start,
            to_ms=at,
        )
        windows.append(window)
    return windows


def _expanded(screened: Sequence[Screened]) -> dict[UsageWindow, tuple[list[Span], int | None, Quarantine | None]]:
    """By window: what of it counts, on which GPU, and why not all of it does."""
    found = {}
    for each in screened:
        windows = each.series.windows()
        verdict = each.verdict
        part = [verdict.billed] if verdict.billed is not None else []
        assert verdict.quarantine is None or not part or len(windows) == 1
        for window in windows:
            counts = [Span(window.from_ms, window.to_ms)] if verdict.quarantine is None else part
            found[window] = (counts, verdict.gpu_id, verdict.quarantine)
    return found


@given(batches(), grants)
def test_together_is_as_alone(windows: list[UsageWindow], grant: Grant | None) -> None:
    screened = [
        each
        for series in series_of(windows)
        for each in screen_series(series, grant, host_id=HOST, received_ms=RECEIVED_MS)
    ]
    alone = {}
    for window in windows:
        verdict = screen(window, grant, host_id=HOST, received_ms=RECEIVED_MS)
        alone[window] = ([verdict.billed] if verdict.billed else [], verdict.gpu_id, verdict.quarantine)
    assert _expanded(screened) == alone
    for gpu_id in (1, 2, 3):
        together = [each.billed for each in screened if each.billed and each.verdict.gpu_id == gpu_id]
        assert union(together) == union(span for spans, gpu, _ in alone.values() if gpu == gpu_id for span in spans)


def test_a_series_is_bounded() -> None:
    windows = [UsageWindow("b", n, "a", 1, "c", "GPU-1", 1000, n, n + 1) for n in range(2 * MAX_WINDOWS + 1)]
    parts = series_of(windows)
    assert [len(part.sequences) for part in parts] == [MAX_WINDOWS, MAX_WINDOWS, 1]
    assert [window for part in parts for window in part.windows()] == windows


@pytest.mark.parametrize("numbers", [(0, 1, 2**63 - 2), (0, 1, 2**80), (-1, 0, 2**31)])
def test_numbers_far_apart_are_of_several_series(numbers: tuple[int, int, int]) -> None:
    windows = [UsageWindow("b", number, "a", 1, "c", "GPU-1", 1000, at, at + 1) for at, number in enumerate(numbers)]
    first, second, far = numbers
    assert [list(part.sequences) for part in series_of(windows[1:])] == [[second], [far]]
    assert [list(part.sequences) for part in series_of(windows)] == [[first, second], [far]]


def test_what_is_refused_is_kept_as_it_was() -> None:
    windows = [UsageWindow("b", n, "a", 1, "c", "GPU-1", 1000, n, n) for n in (3, 3, 5)]
    reasons = [Quarantine.MALFORMED, Quarantine.SEQUENCE_REUSED, Quarantine.SEQUENCE_REUSED]
    refused = refuse(zip(windows, reasons, strict=True))
    kept = [(window, each.verdict.quarantine) for each in refused for window in each.series.windows()]
    assert kept == list(zip(windows, reasons, strict=True))
