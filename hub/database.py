"""What keeps a restart of the database from signing everybody out once.

JupyterHub tests each connection that it takes out of the pool (`pool_pre_ping` would add nothing), but its one session
keeps its connection from request to request: the first question after a restart fails, and whoever asked is nobody.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Result
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

_WRITTEN = "written"


def ask_again_after_restarts() -> None:
    """Of all sessions of this process: a read that finds its connection dead is repeated on another, once."""
    event.listen(Session, "after_flush", _note_written)
    event.listen(Session, "after_transaction_end", _forget_written)
    event.listen(Session, "do_orm_execute", _ask)


def _ask(state: ORMExecuteState) -> Result[Any] | None:  # Any: the statement's columns
    session = state.session
    if not state.is_select or state.is_relationship_load or state.is_column_load or _would_lose(session):
        return None
    try:
        return state.invoke_statement()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    session.rollback()
    return state.invoke_statement()


def _would_lose(session: Session) -> bool:
    """Whether a rollback would drop a change; between requests there is none."""
    return bool(session.new or session.dirty or session.deleted or session.info.get(_WRITTEN))


def _note_written(session: Session, _: object) -> None:
    session.info[_WRITTEN] = True


def _forget_written(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_WRITTEN, None)
