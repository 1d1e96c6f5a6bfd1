"""Which controller leads: a session-level advisory lock, and an epoch that fences those who led before."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from api.pipeline import Pipeline, pipelined
from scheduler.ports import LostLeadershipError

_LOCK = 7_301_002
_ENTER = text(
    "select epoch, set_config('remotegpu.scheduler', 'on', true) as scheduler,"
    " set_config('enable_seqscan', 'off', true) as seqscan from leadership where id = 1 for share"
)


@dataclass(frozen=True, slots=True)
class Leadership:
    """Held as long as its connection lives; the connection is used for nothing else."""

    connection: Connection
    epoch: int

    def alive(self) -> bool:
        """Whether the connection, and with it the lock, is still there."""
        try:
            self.connection.execute(text("select 1"))
            self.connection.commit()
        except DBAPIError:
            return False
        return True


def acquire(connection: Connection, *, holder: str = "") -> Leadership | None:
    """Try to become the leader on a dedicated connection. None while another one leads: try again later.

    With the lock comes a new epoch, from which on the stores of earlier leaders change nothing.
    """
    locked = connection.execute(text("select pg_try_advisory_lock(:lock)"), {"lock": _LOCK}).scalar_one()
    if not locked:
        connection.commit()
        return None
    epoch = connection.execute(
        text(
            "insert into leadership (id, epoch, holder) values (1, 1, :holder) on conflict (id) do update"
            " set epoch = leadership.epoch + 1, holder = excluded.holder, since = now() returning epoch"
        ),
        {"holder": holder or socket.gethostname()},
    ).scalar_one()
    connection.commit()
    return Leadership(connection, epoch)


def release(leadership: Leadership) -> None:
    """Let a standby take over at once."""
    leadership.connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": _LOCK})
    leadership.connection.commit()


def check_epoch(session: Session, epoch: int) -> None:
    """Hold off a change of leader until this transaction ends, and make it one of the scheduling loop's: what it does
    to allocations is not noted for the loop, and its statements, which look rows up by their keys, never read whole
    tables (as they would for long after they were planned while those were empty).

    Raises:
        LostLeadershipError: it has changed already.
    """
    with pipelined(session) as pipeline:  # with the transaction's begin
        ask_epoch(pipeline, epoch)()


def ask_epoch(pipeline: Pipeline, epoch: int) -> Callable[[], None]:
    """The same, checked later, together with what is asked next; nothing may be committed before that."""
    leading = pipeline.ask(_ENTER, {})

    def check() -> None:
        current = [row.epoch for row in leading.all()]
        if current != [epoch]:
            raise LostLeadershipError(f"epoch {epoch} is over, {current} leads")

    return check
