"""Deletes volumes on their hosts: a duty of the controller.

Hosts are asked in threads with no transaction open. What fails is tried again with a bounded back-off, for ever: a host
that is away loses nothing. One that has left for good is not asked.
"""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.db import Database
from api.errors import ApiError, Unavailable
from api.hostlink import Hosts
from api.machines.tables import Host
from api.volumes.tables import DELETING, Volume
from scheduler.states import AdminState

WORKERS = 8
BATCH = 5000
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """What this process remembers; losing it costs a repeated call at most."""

    due_s: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    volume_id: int
    docker_name: str
    host_uid: str | None  # None: there is nobody to ask


class VolumeDeletion:
    """One per controller. `run_once` is called by one thread; it starts work and does not wait for it."""

    def __init__(self, database: Database, hosts: Hosts) -> None:
        self._database, self._hosts = database, hosts
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="volumes")
        self._running: dict[int, Future[None]] = {}
        self._progress: dict[int, _Progress] = {}

    def run_once(self) -> int:
        """Start what is due; how many deletions that were."""
        self._running = {key: done for key, done in self._running.items() if not done.done()}
        works = {work.volume_id: work for work in self._look()}
        self._progress = {key: self._progress.get(key, _Progress()) for key in works.keys() | self._running.keys()}
        now = time.monotonic()
        due = [key for key in works if key not in self._running and self._progress[key].due_s <= now]
        # What fails time and again comes last: a host that hangs keeps its worker for long.
        due.sort(key=lambda key: self._progress[key].failures)
        chosen = due[: WORKERS - len(self._running)]
        for key in chosen:
            self._running[key] = self._pool.submit(self._delete, works[key], self._progress[key])
        return len(chosen)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait for the deletions that are running; whether all have ended."""
        return not wait(self._running.values(), timeout=timeout_s).not_done

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look(self) -> list[_Work]:
        query = (
            select(Volume, Host.uid, Host.admin_state)
            .outerjoin(Host, Host.id == Volume.host_id)
            .where(text(DELETING))
            .order_by(Volume.id)
            .limit(BATCH)
        )
        with self._database.session() as session:
            return [
                _Work(
                    volume.id,
                    volume.docker_name,
                    None if uid is None or admin_state == AdminState.RETIRED else str(uid),
                )
                for volume, uid, admin_state in session.execute(query)
            ]

    def _delete(self, work: _Work, progress: _Progress) -> None:
        try:
            if work.host_uid is not None:
                body = {"volume": work.docker_name}
                status, answer = self._hosts.call(work.host_uid, "delete_volume", body, timeout_s=TIMEOUT_S)
                if status not in (200, 204, 404):
                    raise Unavailable(f"{status} {answer}")
            self._database.transact(partial(_deleted, volume_id=work.volume_id))
        except ApiError as error:
            self._back_off(progress)
            _log.warning("%s could not be deleted, trying again: %s", work.docker_name, error)
        except Exception:  # one volume must not stop the others
            self._back_off(progress)
            _log.exception("%s could not be deleted, trying again", work.docker_name)

    def _back_off(self, progress: _Progress) -> None:
        pause_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(progress.failures, 10))
        progress.failures += 1
        progress.due_s = time.monotonic() + pause_s


def _deleted(session: Session, *, volume_id: int) -> None:
    volume = session.get_one(Volume, volume_id, with_for_update=True)
    if volume.deleted_at is None:
        volume.deleted_at = utc_now()
