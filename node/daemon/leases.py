"""The leases that this host holds, kept over restarts; ended ones are remembered for a time, for fencing."""

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from pydantic import TypeAdapter

from node.daemon.store import Row, Store
from scheduler.host_protocol import EndNotice, Lease

_LEASE = TypeAdapter(Lease)
_KEEP_ENDED_MS = 7 * 86_400_000
_COLUMNS = "lease, run_until_ms, state, network, ended_at_ms, exit_code"


class StaleGenerationError(Exception):
    """The operation's generation is not the lease's: nothing was changed."""


class LeaseEndedError(Exception):
    """The lease is over, or was never here."""


class LeaseState(StrEnum):
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class HeldLease:
    """`run_until_ms` is the renewed one; `lease` is as it was granted."""

    lease: Lease
    run_until_ms: int
    state: LeaseState
    network: str | None
    ended_at_ms: int | None
    exit_code: int | None


class Leases:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()

    def lock(self, allocation_uid: str) -> threading.RLock:
        """Held while containers of the allocation are made, started or ended."""
        with self._lock:
            return self._locks.setdefault(allocation_uid, threading.RLock())

    def grant(self, lease: Lease) -> HeldLease:
        """Keep a lease; the same one again changes nothing.

        Raises:
            StaleGenerationError: a newer generation was here, or an older one is still running.
            LeaseEndedError: this very one has ended.
        """
        held = self.find(lease.allocation_uid)
        if held is None or (lease.generation > held.lease.generation and held.state == LeaseState.ENDED):
            self._store.execute(
                "insert or replace into leases values (?, ?, ?, ?, 'active', null, null, null)",
                lease.allocation_uid,
                lease.generation,
                json.dumps(asdict(lease)),
                lease.run_until_ms,
            )
            return self.get(lease.allocation_uid, lease.generation)
        if held.lease.generation != lease.generation:
            raise StaleGenerationError
        if held.state != LeaseState.ACTIVE:
            raise LeaseEndedError
        return held

    def find(self, allocation_uid: str) -> HeldLease | None:
        row = self._store.one(f"select {_COLUMNS} from leases where allocation_uid = ?", allocation_uid)
        return None if row is None else _held(row)

    def get(self, allocation_uid: str, generation: int) -> HeldLease:
        """Raises: LeaseEndedError (never here), StaleGenerationError."""
        held = self.find(allocation_uid)
        if held is None:
            raise LeaseEndedError
        if held.lease.generation != generation:
            raise StaleGenerationError
        return held

    def held(self) -> list[HeldLease]:
        """Those that have not ended."""
        return [_held(row) for row in self._store.all(f"select {_COLUMNS} from leases where state != 'ended'")]

    def set_network(self, allocation_uid: str, network: str | None) -> None:
        self._store.execute("update leases set network = ? where allocation_uid = ?", network, allocation_uid)

    def renew(self, allocation_uid: str, generation: int, run_until_ms: int) -> None:
        self._store.execute(
            "update leases set run_until_ms = ? where allocation_uid = ? and generation = ? and state != 'ended'",
            run_until_ms,
            allocation_uid,
            generation,
        )

    def begin_end(self, allocation_uid: str, generation: int) -> None:
        """From here on nothing of it is made or started. A newer generation is left alone."""
        self._store.execute(
            "update leases set state = 'ending' where allocation_uid = ? and generation = ? and state = 'active'",
            allocation_uid,
            generation,
        )

    def end_because(self, lease: Lease, detail: str) -> None:
        """Note why the host itself is about to end a lease; the first reason stays."""
        self._store.execute(
            "insert or ignore into endings values (?, ?, ?)", lease.allocation_uid, lease.generation, detail
        )

    def endings(self) -> tuple[EndNotice, ...]:
        """Those that the platform does not know of yet."""
        return tuple(EndNotice(*row) for row in self._store.all("select * from endings"))

    def forget_endings(self, known: Iterable[EndNotice]) -> None:
        for ending in known:
            self._store.execute("delete from endings where allocation_uid = ?", ending.allocation_uid)

    def finish_end(self, allocation_uid: str, ended_at_ms: int, exit_code: int | None) -> None:
        self._store.execute(
            "update leases set state = 'ended', network = null, ended_at_ms = ?, exit_code = ?"
            " where allocation_uid = ?",
            ended_at_ms,
            exit_code,
            allocation_uid,
        )
        self._store.execute(
            "delete from leases where state = 'ended' and ended_at_ms < ?", ended_at_ms - _KEEP_ENDED_MS
        )
        with self._lock:
            self._locks = {uid: lock for uid, lock in self._locks.items() if uid != allocation_uid}


def _held(row: Row) -> HeldLease:
    lease, run_until_ms, state, network, ended_at_ms, exit_code = row
    return HeldLease(_LEASE.validate_json(lease), run_until_ms, LeaseState(state), network, ended_at_ms, exit_code)
