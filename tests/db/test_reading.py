"""Statements that only read, on the event loop: values, errors, and connections that are given up."""

import asyncio
import random

import pytest
from psycopg import errors
from sqlalchemy import BigInteger, LargeBinary, Text, bindparam, cast, func, select, text

from api.db import Database
from api.reading import Statement

BACKEND = Statement(select(func.pg_backend_pid()))
ECHO = Statement(
    select(
        cast(bindparam("bytes"), LargeBinary), cast(bindparam("text"), Text), cast(bindparam("number"), BigInteger), 7
    )
)
SLEEP = Statement(text("select pg_sleep(:seconds)"))
DIVIDE = Statement(select(1 / cast(bindparam("by"), BigInteger)))


def test_values_come_back_as_they_were(database: Database) -> None:
    async def main() -> None:
        chance = random.Random(7)
        for size in (0, 1, 32, 64, 300):
            values = {"bytes": chance.randbytes(size) + b"\\'\0\xff", "text": "qu'o\\te \u00e9", "number": -(2**63)}
            assert await database.read(ECHO, values) == [(*values.values(), 7)]
        nothing = {"bytes": None, "text": None, "number": None}
        assert await database.read(ECHO, nothing) == [(None, None, None, 7)]

    asyncio.run(main())


def test_a_statement_that_fails_costs_no_connection(database: Database) -> None:
    async def main() -> None:
        backend = await database.read(BACKEND, {})
        with pytest.raises(errors.DivisionByZero):
            await database.read(DIVIDE, {"by": 0})
        assert await database.read(DIVIDE, {"by": 1}) == [(1,)]
        assert await database.read(BACKEND, {}) == backend

    asyncio.run(main())


def test_an_answer_that_nobody_waits_for_is_nobody_elses(database: Database) -> None:
    async def main() -> None:
        backend = await database.read(BACKEND, {})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await database.read(SLEEP, {"seconds": 60})
        assert await database.read(DIVIDE, {"by": 1}) == [(1,)]
        assert await database.read(BACKEND, {}) != backend

    asyncio.run(main())


def test_reads_at_once_share_a_bounded_number_of_connections(database: Database) -> None:
    async def main() -> None:
        answers = await asyncio.gather(*(database.read(BACKEND, {}) for _ in range(100)))
        assert 1 <= len({pid for ((pid,),) in answers}) <= 10

    asyncio.run(main())


def test_each_event_loop_has_its_own_connections(database: Database) -> None:
    first, second = (asyncio.run(database.read(BACKEND, {})) for _ in range(2))
    assert first != second


def test_what_only_reads_can_not_write(database: Database) -> None:
    with pytest.raises(errors.ReadOnlySqlTransaction):
        asyncio.run(database.read(Statement(text("update users set display_name = :name")), {"name": "x"}))
