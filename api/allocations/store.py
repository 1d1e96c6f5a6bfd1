"""The scheduling loop's store in PostgreSQL."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from psycopg.errors import ExclusionViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations import admission, groups, leases, outcomes
from api.allocations.changes import Known, Look, look
from api.allocations.leadership import check_epoch
from api.allocations.own_steps import OwnSteps
from api.allocations.waits import record_waits
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from scheduler.ports import Admitted, Changes, Eviction, Outcome, Placement, Releasing, WaitReason

Result = TypeVar("Result")


class PostgresStore:
    """Implements `scheduler.ports.Store`. Every method is one transaction, refused once another leader's epoch began.

    `epoch` comes from `api.allocations.leadership.acquire`. Safe to be used by several threads.
    """

    def __init__(
        self, database: Database, settings: Settings, *, epoch: int, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._settings = settings
        self._epoch = epoch
        self._clock = clock
        self._known: Known | None = None
        self._looking = threading.Lock()

    def changes(self, *, complete: bool = False) -> Changes:
        """After a failure everything is told again: whether what was noted is gone, nobody knows then."""
        with self._looking:
            known, self._known = None if complete else self._known, None

            def read(session: Session) -> Look:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                return look(session, known, epoch=self._epoch, settings=self._settings, now=self._clock())

            found = self._database.transact(read)
            self._known = found.learn(known)
        return found.changes

    def admit(self, placements: Sequence[Placement]) -> Sequence[Admitted | WaitReason]:
        """One transaction for all; if a device row overlaps after all, one for each, so that only that one is lost."""
        if not placements:
            return []
        try:
            return self._write(
                lambda session: admission.admit(session, placements, settings=self._settings, now=self._clock()),
                lambda own, admission: own.placed(admission.held),
            ).answers
        except IntegrityError as error:
            if not isinstance(error.orig, ExclusionViolation):
                raise
        if len(placements) == 1:
            return [WaitReason("no_capacity", "Somebody else was faster; it is tried again at once.", 1)]
        return [answer for placement in placements for answer in self.admit([placement])]

    def evict(self, evictions: Sequence[Eviction]) -> Sequence[bool]:
        return self._write(
            lambda session: outcomes.evict(session, evictions), lambda own, done: own.evicted(evictions, done)
        )

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None:
        self._transact(lambda session: record_waits(session, reasons))

    def record(self, found: Sequence[Outcome]) -> Sequence[bool]:
        return self._write(
            lambda session: outcomes.record(session, found, now=self._clock()),
            lambda own, done: own.recorded(found, done),
        )

    def placing(self, allocation_ids: Sequence[int]) -> Sequence[Admitted]:
        return self._transact(lambda session: leases.load_admitted(session, allocation_ids, settings=self._settings))

    def releasing(self, allocation_ids: Sequence[int]) -> Sequence[Releasing]:
        return self._transact(lambda session: leases.load_releasing(session, allocation_ids, settings=self._settings))

    def groups_to_drop(self) -> Sequence[str]:
        idle_s = self._settings.idle_group_s
        return self._transact(lambda session: groups.to_drop(session, now=self._clock(), idle_s=idle_s))

    def _write(self, work: Callable[[Session], Result], learn: Callable[[OwnSteps, Result], None]) -> Result:
        """Change allocations; if that fails, whether it has changed them, nobody knows."""
        with self._looking:
            known, self._known = self._known, None
            result = self._transact(work)
            if known is not None:
                learn(known.own, result)
            self._known = known
        return result

    def _transact(self, work: Callable[[Session], Result]) -> Result:
        def fenced(session: Session) -> Result:
            check_epoch(session, self._epoch)
            return work(session)

        return self._database.transact(fenced)
