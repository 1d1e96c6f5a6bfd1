"""Who waits: lines of equivalent requests, and those that back off."""

from dataclasses import replace

from scheduler.engine.backlog import Backlog, Kind
from scheduler.engine.blocked import Blocked, Code, Epoch
from tests.unit.engine_world import at
from tests.unit.simulated_world import request


def test_equivalent_requests_stand_in_one_line_in_the_order_in_which_they_came() -> None:
    backlog = Backlog()
    for number, seconds in ((1, 5), (2, 3), (3, 3)):
        assert backlog.put(request(number, queued_at=at(seconds)), at(9))
    backlog.put(request(4, queued_at=at(1), priority=7), at(9))
    assert len(backlog.lines) == 2
    line = backlog.line(1)
    assert line is not None
    assert [each.allocation_id for each in line.in_order()] == [2, 3, 1]
    assert [each.allocation_id for each in line.first(2)] == [2, 3]


def test_the_head_is_the_first_of_those_who_are_still_there() -> None:
    backlog = Backlog()
    for number in (1, 2, 3):
        backlog.put(request(number, queued_at=at(number)), at(9))
    line = backlog.line(1)
    backlog.remove(1)
    backlog.put(request(2, queued_at=at(10)), at(9))  # it stands at the end now
    assert line is not None
    assert line.head() == request(3, queued_at=at(3))


def test_putting_the_same_again_changes_nothing() -> None:
    backlog = Backlog()
    assert backlog.put(request(1, queued_at=at(0)), at(9))
    line = backlog.line(1)
    assert line is not None
    line.verdict = Blocked(Code.QUOTA, "", Epoch(0, 0, 0, 0))
    assert not backlog.put(request(1, queued_at=at(0)), at(9))
    assert backlog.line(1) is line
    assert line.verdict is not None


def test_another_priority_is_another_line_and_an_empty_one_is_gone() -> None:
    backlog = Backlog()
    first = request(1, queued_at=at(0))
    backlog.put(first, at(9))
    backlog.put(replace(first, priority=5), at(9))
    assert [kind.priority for kind in backlog.lines] == [5]
    assert backlog.remove(1) is not None
    assert (len(backlog), backlog.lines, backlog.remove(1), backlog.get(1)) == (0, {}, None, None)


def test_who_backs_off_stands_in_no_line_until_it_is_time_and_then_at_its_old_place() -> None:
    backlog = Backlog()
    backlog.put(request(1, queued_at=at(0), not_before=at(20)), at(9))
    backlog.put(request(2, queued_at=at(5)), at(9))
    assert 1 in backlog
    assert (len(backlog), backlog.line(1)) == (2, None)
    assert [each.allocation_id for each in backlog.asleep()] == [1]
    backlog.wake(at(19))
    assert backlog.line(1) is None
    backlog.wake(at(20))
    line = backlog.line(1)
    assert line is not None
    assert [each.allocation_id for each in line.in_order()] == [1, 2]


def test_a_kind_is_all_of_a_request_but_who_came_when() -> None:
    first = request(1, queued_at=at(0))
    assert Kind.of(first) == Kind.of(request(2, queued_at=at(7), not_before=at(3)))
    assert all(
        Kind.of(first) != Kind.of(replace(first, **{name: 4}))
        for name in ("customer_id", "workspace_id", "priority", "min_runtime_s", "limit_s", "hold_s", "reservation_id")
    )
