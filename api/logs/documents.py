"""What readers and followers get: documents with records of output, and where it goes on."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from api.db import Database
from api.logs.attempts import NoAttempt, Wanted, find_log
from api.logs.elements import ElementLog, find_element
from api.logs.following import Following
from api.logs.reading import LogRef
from api.principal import Principal

LOOK_AGAIN_S = 1.0  # for the first attempt of a task that waits, or the next try of an element


def document(attempt: int | None, records: str, position: int, ended: bool) -> str:
    """`records` are what stands between the brackets."""
    number, done = json.dumps(attempt), json.dumps(ended)
    return f'{{"attempt":{number},"records":[{records}],"next_position":{position},"ended":{done}}}'


@dataclass(frozen=True, slots=True)
class Follower:
    database: Database
    principal: Principal
    following: Following

    async def of_task(self, wanted: Wanted, log: LogRef | NoAttempt, position: int) -> AsyncGenerator[str, None]:
        """All that there is of an attempt from `position` on, and comes. `log` is what was found first.

        Raises:
            NotFound, ObjectStoreUnavailable, psycopg.Error
        """
        while isinstance(log, NoAttempt):
            if log.over:
                yield document(None, "", position, True)
                return
            await asyncio.sleep(LOOK_AGAIN_S)
            log = await find_log(self.database, self.principal, wanted)
        async with aclosing(self.following.frames(log, position)) as frames:
            async for frame in frames:
                yield document(log.number, frame.json, frame.end, False)
                position = frame.end
        yield document(log.number, "", position, True)

    async def of_element(
        self, task_uid: UUID, index: int, element: ElementLog, number: int | None, position: int
    ) -> AsyncGenerator[str, None]:
        """All that there is of an element's tries from that position of the try `number` on, and comes, also of those
        that begin later. `element` is what was found first; without a `number` the first is yet to begin.

        Raises: as above.
        """
        place, end = number or 0, position
        attempt: int | None = None
        while True:
            if place < len(element.parts):
                part = element.parts[place]
                attempt, end = part.log.number, max(position, part.begin)
                end_of = partial(self._end_of, task_uid, index, place)
                async with aclosing(self.following.frames(part.log, end, end_of)) as frames:
                    async for frame in frames:
                        yield document(attempt, frame.json, frame.end, False)
                        end = frame.end
                place, position = place + 1, 0
            elif element.over:
                yield document(attempt, "", end, True)
                return
            else:
                await asyncio.sleep(LOOK_AGAIN_S)
            element = await find_element(self.database, self.principal, task_uid, index)

    async def _end_of(self, task_uid: UUID, index: int, place: int) -> int | None:
        element = await find_element(self.database, self.principal, task_uid, index)
        return element.parts[place].end
