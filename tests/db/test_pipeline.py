"""Statements that are sent without waiting for those before."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from api.db import Database
from api.pipeline import pipelined

_ECHO = text("select cast(:value as int) as value, 1 as one")
_ADD = text("insert into settings (key, value) values (:key, '1')")


def test_answers_are_told_in_any_order(database: Database) -> None:
    with database.session() as session, pipelined(session) as pipeline:
        first, second = (pipeline.ask(_ECHO, {"value": value}) for value in (7, 8))
        assert [row.value for row in second.all()] == [8]
        assert [tuple(row) for row in first.all()] == [(7, 1)]


def test_what_sqlalchemy_sends_keeps_its_place_among_them(database: Database) -> None:
    def work(session: Session) -> list[str]:
        with pipelined(session) as pipeline:
            session.execute(_ADD, {"key": "pipeline"})
            rows = pipeline.ask(text("select key from settings where key = :key"), {"key": "pipeline"})
            return [row.key for row in rows.all()]

    assert database.transact(work) == ["pipeline"]


def test_what_goes_wrong_is_an_error_of_sqlalchemys(database: Database) -> None:
    def twice(session: Session) -> None:
        with pipelined(session) as pipeline:
            for _ in range(2):
                pipeline.ask(text(f"{_ADD.text} returning key"), {"key": "twice"})

    with pytest.raises(IntegrityError):
        database.transact(twice)
    with pytest.raises(DBAPIError), database.session() as session, pipelined(session) as pipeline:
        pipeline.ask(text("select 1 / cast(:zero as int) as one"), {"zero": 0}).all()


def test_a_deadlock_in_one_repeats_the_transaction(database: Database) -> None:
    tries: list[int] = []

    def work(session: Session) -> int:
        tries.append(1)
        with pipelined(session) as pipeline:
            if len(tries) == 1:
                pipeline.ask(text("do $$ begin raise deadlock_detected; end $$"), {})
            return len(tries)

    assert database.transact(work) == 2
