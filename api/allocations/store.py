"""The scheduling loop's store in PostgreSQL."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from psycopg.errors import ExclusionViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.allocations import admission, groups, release
from api.allocations.leadership import check_epoch
from api.allocations.snapshot import load_snapshot, record_waits
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from scheduler.host_protocol import LeaseEnd
from scheduler.ports import Admitted, Placement, Releasing, Snapshot, WaitReason

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

    def snapshot(self) -> Snapshot:
        return self._transact(lambda session: load_snapshot(session, now=self._clock()))

    def admit(self, placement: Placement) -> Admitted | WaitReason:
        try:
            return self._transact(
                lambda session: admission.admit(session, placement, settings=self._settings, now=self._clock())
            )
        except IntegrityError as error:
            if not isinstance(error.orig, ExclusionViolation):
                raise
            return WaitReason("no_capacity", "Somebody else was faster; it is tried again at once.", 1)

    def record_waits(self, reasons: Mapping[int, WaitReason]) -> None:
        self._transact(lambda session: record_waits(session, reasons))

    def activate(self, allocation_id: int, *, generation: int) -> bool:
        return self._transact(lambda session: admission.activate(session, allocation_id, generation=generation))

    def unplace(self, allocation_id: int, *, generation: int, reason: str, retry_at: datetime) -> bool:
        return self._transact(
            lambda session: admission.unplace(
                session, allocation_id, generation=generation, reason=reason, retry_at=retry_at
            )
        )

    def unfinished_placements(self) -> Sequence[Admitted]:
        return self._transact(lambda session: admission.unfinished(session, settings=self._settings))

    def releasing(self) -> Sequence[Releasing]:
        return self._transact(lambda session: release.load_releasing(session, settings=self._settings))

    def released(self, allocation_id: int, *, generation: int, ended: LeaseEnd | None) -> None:
        self._transact(
            lambda session: release.release(
                session, allocation_id, generation=generation, ended=ended, now=self._clock()
            )
        )

    def groups_to_drop(self) -> Sequence[str]:
        idle_s = self._settings.idle_group_s
        return self._transact(lambda session: groups.to_drop(session, now=self._clock(), idle_s=idle_s))

    def group_dropped(self, name: str) -> None:
        self._transact(lambda session: groups.dropped(session, name))

    def _transact(self, work: Callable[[Session], Result]) -> Result:
        def fenced(session: Session) -> Result:
            check_epoch(session, self._epoch)
            return work(session)

        return self._database.transact(fenced)
