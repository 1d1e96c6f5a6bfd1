"""The one function that changes a state column, and writes the event row with it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from scheduler.states import check_transition

State = TypeVar("State", bound=StrEnum)


def apply_state(
    session: Session,
    row: Any,  # any mapped class: the columns are named by the caller
    *,
    column: str,
    table: Mapping[State, frozenset[State]],
    target: State,
    event: Any,  # the event row, ready but for its states
) -> None:
    """Move `row.<column>` to `target` along `table` and add `event`. The caller has locked the row.

    Raises:
        scheduler.states.TransitionError: the table has no such transition.
    """
    kind = type(target)
    current = kind(getattr(row, column))
    check_transition(table, current=current, target=target)
    setattr(row, column, target)
    event.from_state = current
    event.to_state = target
    session.add(event)
