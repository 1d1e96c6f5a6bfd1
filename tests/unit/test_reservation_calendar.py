"""The search for devices in the calendar of reservations."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from api.reservations.calendar import FOREVER, Booking, Room, Slot, Span, Wish, choose, next_start, peak

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A100, H100 = "A100", "H100"


def span(start_h: float, end_h: float) -> Span:
    return Span(NOON + timedelta(hours=start_h), NOON + timedelta(hours=end_h))


def slots(host_id: int, count: int, *, model: str = A100) -> list[Slot]:
    return [Slot(100 * host_id + n, host_id, model) for n in range(count)]


def booked(when: Span, host_id: int, *indexes: int, cpu: int = 1) -> Booking:
    return Booking(when, host_id, frozenset(100 * host_id + n for n in indexes), cpu, 1)


def wish(gpus: int = 1, nodes: int = 1, cpu: int = 1) -> Wish:
    return Wish(nodes, gpus, cpu, 1)


ROOMS = {host_id: Room(8, 8) for host_id in (1, 2, 3)}


def ids(wanted: Wish, when: Span, offered: list[Slot], bookings: list[Booking] | None = None) -> tuple[int, ...] | None:
    chosen = choose(wanted, when, slots=offered, rooms=ROOMS, bookings=bookings or [])
    return None if chosen is None else tuple(slot.gpu_id for slot in chosen)


def test_the_host_with_the_fewest_left_is_taken() -> None:
    assert ids(wish(2), span(0, 1), slots(1, 4) + slots(2, 2) + slots(3, 3)) == (200, 201)


def test_what_is_booked_at_that_time_is_not_free() -> None:
    taken = [booked(span(1, 2), 1, 0, 1)]
    assert ids(wish(2), span(0, 1), slots(1, 2), taken) == (100, 101)
    assert ids(wish(2), span(2, 3), slots(1, 2), taken) == (100, 101)
    for when in (span(1, 2), span(0, 1.1), span(1.9, 3), span(1.2, 1.3), span(0, 9)):
        assert ids(wish(1), when, slots(1, 2), taken) is None


def test_all_devices_are_of_one_model() -> None:
    mixed = [*slots(1, 1), Slot(150, 1, H100), Slot(151, 1, H100)]
    assert ids(wish(2), span(0, 1), mixed) == (150, 151)
    assert ids(wish(3), span(0, 1), mixed) is None
    assert ids(wish(1, nodes=2), span(0, 1), slots(1, 1) + slots(2, 1, model=H100)) is None
    assert ids(wish(1, nodes=2), span(0, 1), slots(1, 1) + slots(2, 1) + slots(3, 2)) == (100, 200)


def test_a_host_runs_out_of_cpus_at_the_worst_moment_only() -> None:
    one_after_another = [booked(span(0, 1), 1, 2, cpu=5), booked(span(1, 2), 1, 3, cpu=5)]
    assert ids(wish(cpu=3), span(0, 2), slots(1, 4), one_after_another) == (100,)
    assert ids(wish(cpu=4), span(0, 2), slots(1, 4), one_after_another) is None


def test_the_next_free_time_is_the_first_that_fits_for_as_long() -> None:
    taken = [booked(span(0, 1), 1, 0, 1), booked(span(1.5, 3), 1, 0), booked(span(5, 6), 1, 0, 1)]

    def following(hours: float, gpus: int) -> datetime | None:
        return next_start(wish(gpus), span(0, hours), slots=slots(1, 2), rooms=ROOMS, bookings=taken)

    assert following(0.5, 2) == NOON + timedelta(hours=1)
    assert following(1, 2) == NOON + timedelta(hours=3)
    assert following(3, 2) == NOON + timedelta(hours=6)
    assert following(1, 3) is None


def test_what_runs_for_ever_leaves_no_other_time() -> None:
    held = [Booking(Span(NOON, FOREVER), 1, frozenset({100}), 1, 1), booked(span(0, 1), 1, 1)]
    offered = {"slots": slots(1, 2), "rooms": ROOMS, "bookings": held}
    assert next_start(wish(1), span(0, 1), **offered) == NOON + timedelta(hours=1)  # type: ignore[arg-type] # by name
    assert next_start(wish(2), span(0, 1), **offered) is None  # type: ignore[arg-type] # by name


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10), st.integers(1, 5)), max_size=12))
def test_the_peak_is_the_most_at_any_moment(spans: list[tuple[int, int, int]]) -> None:
    amounts = [(span(start, start + length), amount) for start, length, amount in spans]
    slow = max((sum(a for s, a in amounts if s.start <= moment.start < s.end) for moment, _ in amounts), default=0)
    assert peak(amounts) == slow
