"""Waiting on conditions: with a bound, and with a word for what did not come."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], *, timeout_s: float, what: str, every_s: float = 0.1) -> Value:
    """The first truthy value of `condition`.

    Raises:
        AssertionError: none came within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(every_s)
