"""Usage windows that wait to be shipped: numbered per boot, bounded, the oldest kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from node.daemon.store import Store
from scheduler.host_protocol import MAX_BATCH, UsageBatch, UsageWindow, WindowId

CAPACITY = 500_000  # windows; eight GPUs fill it in four days without the platform


class SpoolFullError(Exception):
    """Nothing is dropped: the caller's windows grow longer until there is room."""


class Spool:
    def __init__(self, store: Store, boot_id: str, *, capacity: int = CAPACITY) -> None:
        self._store, self._boot_id, self._capacity = store, boot_id, capacity

    def backlog(self) -> int:
        row = self._store.one("select count(*) from windows")
        return int(row[0]) if row else 0

    def add(self, windows: Sequence[UsageWindow], *, last: bool) -> None:
        """Number and keep the windows. Call it inside the transaction that says they are billed.

        The `last` ones of a run always have room: nothing could prove their time later.

        Raises:
            SpoolFullError
        """
        if not last and self.backlog() + len(windows) > self._capacity:
            raise SpoolFullError
        row = self._store.one("select next from sequences where boot_id = ?", self._boot_id)
        first = int(row[0]) if row else 0
        for sequence, window in enumerate(windows, first):
            text = json.dumps(asdict(replace(window, sequence=sequence)))
            self._store.execute("insert into windows values (?, ?, ?)", self._boot_id, sequence, text)
        self._store.execute("insert or replace into sequences values (?, ?)", self._boot_id, first + len(windows))

    def read(self, limit: int) -> UsageBatch:
        """The oldest windows, boot after boot in the order in which they were made."""
        rows = self._store.all("select window from windows order by rowid limit ?", min(limit, MAX_BATCH))
        return UsageBatch(tuple(UsageWindow(**json.loads(text)) for (text,) in rows))

    def last_of(self, allocation_uid: str, generation: int) -> WindowId | None:
        """The last window of a lease that is still here."""
        row = self._store.one(
            "select boot_id, sequence from windows where json_extract(window, '$.allocation_uid') = ?"
            " and json_extract(window, '$.generation') = ? order by rowid desc limit 1",
            allocation_uid,
            generation,
        )
        return None if row is None else WindowId(*row)

    def acknowledge(self, boot_id: str, through: int) -> None:
        self._store.execute("delete from windows where boot_id = ? and sequence <= ?", boot_id, through)
