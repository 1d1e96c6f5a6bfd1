"""How many get a turn, how many wait, and that the rest is refused at once."""

import threading

import pytest

from api.errors import TooManyRequests
from api.waiting_room import WaitingRoom
from tests.waiting import wait_for


def test_some_get_a_turn_some_wait_and_the_rest_is_refused() -> None:
    room, goes_on = WaitingRoom(at_once=2, waiting=3, refusal="No."), threading.Event()
    inside: list[int] = []
    most: list[int] = []
    refused = threading.Semaphore(0)

    def visit(number: int) -> None:
        try:
            with room.turn():
                inside.append(number)
                most.append(len(inside))
                assert goes_on.wait(20)
                inside.remove(number)
        except TooManyRequests as error:
            assert error.headers == {"Retry-After": "1"}
            refused.release()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        assert refused.acquire(timeout=10)
    wait_for(lambda: len(inside) == 2, timeout_s=10, what="two turns")
    goes_on.set()
    for thread in threads:
        thread.join(20)
    assert (len(most), max(most), inside) == (5, 2, [])


def test_a_turn_that_failed_is_over() -> None:
    room = WaitingRoom(at_once=1, waiting=0, refusal="No.")
    for _ in range(2):
        with pytest.raises(KeyError), room.turn():
            raise KeyError
    with room.turn():
        pass
