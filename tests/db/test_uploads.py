"""Uploads: what is taken, kept once, given back whole, and removed when there is no room."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update

from api.app import API
from api.db import Database
from api.errors import RequestTimeout, TooManyRequests, Unavailable
from api.object_store import ObjectStore, ObjectStoreUnavailable
from api.settings import Settings
from api.uploads import receiving, service
from api.uploads.receiving import Receiver
from api.uploads.tables import DoomedObject, Package, Upload
from scheduler.states import TaskState
from tests.db.conftest import Person, Tenant
from tests.db.upload_world import add_task, archive_of, digest_of

FIRST, SECOND, THIRD = (archive_of(name=text) for text in ("first", "second", "third"))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With room for two of the archives above."""
    return settings.model_copy(update={"max_uploads_bytes": 2 * max(map(len, (FIRST, SECOND, THIRD)))})


@pytest.fixture
def objects(app: FastAPI) -> ObjectStore:
    store: ObjectStore = app.state.objects
    return store


@pytest.fixture
def put(app_client: TestClient, tenant: Tenant) -> Any:
    def put(content: Any, digest: str | None = None, who: Person = tenant.member) -> httpx.Response:
        address = f"{API}/customer/uploads/{digest or digest_of(content)}"
        answer: Any = app_client.put(address, content=content, headers=who.headers)
        return answer

    return put


def kept(database: Database) -> dict[str, str]:
    """Keys of the objects of uploads, by digest."""
    with database.session() as session:
        return {row.digest: row.object_key for row in session.execute(select(Upload.digest, Upload.object_key))}


def stored(objects: ObjectStore) -> set[str]:
    return {found.key for found in objects.list("uploads")}


def use_long_ago(database: Database, *contents: bytes) -> None:
    """In this order, the first longest ago."""
    with database.engine.begin() as connection:
        for hours, content in enumerate(reversed(contents), start=2):
            query = "update uploads set used_at = now() - make_interval(hours => :hours) where digest = :digest"
            connection.execute(text(query), {"hours": hours, "digest": digest_of(content)})


def test_an_upload_is_kept_once(
    app_client: TestClient, database: Database, objects: ObjectStore, tenant: Tenant, other_tenant: Tenant, put: Any
) -> None:
    address = f"{API}/customer/uploads/{digest_of(FIRST)}"
    assert app_client.head(address, headers=tenant.owner.headers).status_code == 404
    assert put(FIRST).status_code == 201
    assert app_client.head(address, headers=tenant.owner.headers).status_code == 204
    assert put(b"not looked at", digest_of(FIRST)).status_code == 204
    key = kept(database)[digest_of(FIRST)]
    assert objects.get(key) == FIRST and stored(objects) == {key}
    assert app_client.head(address, headers=other_tenant.owner.headers).status_code == 404
    assert put(FIRST, who=other_tenant.owner).status_code == 201
    assert len(stored(objects)) == 2


def test_what_is_not_what_it_says_is_refused(objects: ObjectStore, put: Any, database: Database) -> None:
    wrong = put(FIRST, "0" * 64)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest_mismatch")
    bad = put(archive_of(**{"../x": "y"}))
    assert (bad.status_code, bad.json()["code"]) == (422, "bad_archive")
    assert "leads out" in bad.json()["detail"]
    assert put(FIRST, "A" * 64).status_code == 422
    assert kept(database) == {} and stored(objects) == set()


def test_a_large_one_comes_in_pieces(app: FastAPI, put: Any, database: Database, settings: Settings) -> None:
    """Larger than other addresses take; of an undeclared length as well."""
    content = archive_of(name="first")
    filled = b"\0" * settings.max_body_bytes  # before the archive: so it is refused, but for its bytes
    for body in (filled + content, iter([filled, content])):
        answer = put(body, digest_of(filled + content))
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_archive"), answer.text


def test_a_too_large_one_is_refused(
    settings: Settings, database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.app import create_app

    app = create_app(settings.model_copy(update={"max_upload_bytes": 1000}), database)
    with TestClient(app) as client:
        address = f"{API}/customer/uploads/{'0' * 64}"
        for body in (b"x" * 1001, iter([b"x" * 500, b"x" * 501])):
            answer = client.put(address, content=body, headers=tenant.member.headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert client.put(address, content=b"x" * 1000, headers=tenant.member.headers).status_code == 422
        other = client.post(f"{API}/auth/login", content=b"x" * (settings.max_body_bytes + 1))
        assert other.status_code == 413


def test_what_was_not_used_for_longest_makes_room(
    app_client: TestClient, database: Database, objects: ObjectStore, tenant: Tenant, put: Any
) -> None:
    put(FIRST), put(SECOND)
    database.transact(
        lambda session: service.name_package(
            session, customer_id=tenant.customer.id, name="gcs/first.zip", digest=digest_of(FIRST)
        )
    )
    use_long_ago(database, FIRST, SECOND)
    assert put(THIRD).status_code == 201
    assert kept(database).keys() == {digest_of(SECOND), digest_of(THIRD)}
    assert stored(objects) == set(kept(database).values()), "its object is gone too"
    with database.session() as session:
        assert session.scalars(select(Package)).all() == []
        assert session.scalars(select(DoomedObject)).all() == []


@pytest.mark.parametrize("place", ["working_dir", "more"])
def test_what_a_task_needs_stays(database: Database, tenant: Tenant, put: Any, place: str) -> None:
    put(FIRST), put(SECOND)
    digest = digest_of(FIRST)
    needs: dict[str, Any] = (
        {"working_dir": digest} if place == "working_dir" else {"more": [{"digest": digest, "target": "/x"}]}
    )
    task = database.transact(lambda session: add_task(session, tenant, **needs))
    use_long_ago(database, FIRST, SECOND)
    assert put(THIRD).status_code == 201
    assert kept(database).keys() == {digest_of(FIRST), digest_of(THIRD)}
    use_long_ago(database, FIRST)
    full = put(SECOND)  # the third is too new to go
    assert (full.status_code, full.json()["code"]) == (409, "uploads_full")
    ended = {"state": TaskState.FAILED, "ended_at": text("now()")}
    database.transact(lambda session: session.execute(update(type(task)).values(ended)))
    assert put(SECOND).status_code == 201
    assert kept(database).keys() == {digest_of(SECOND), digest_of(THIRD)}


def test_what_was_used_lately_stays(app_client: TestClient, database: Database, tenant: Tenant, put: Any) -> None:
    put(FIRST), put(SECOND)
    use_long_ago(database, FIRST, SECOND)
    used = app_client.head(f"{API}/customer/uploads/{digest_of(FIRST)}", headers=tenant.member.headers)
    assert used.status_code == 204
    put(THIRD)
    assert kept(database).keys() == {digest_of(FIRST), digest_of(THIRD)}


def test_a_store_that_does_not_answer_loses_nothing(
    database: Database, objects: ObjectStore, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(ObjectStore, "put", _unavailable)
        answer = put(FIRST)
        assert answer.status_code == 503
    assert kept(database) == {}
    assert put(FIRST).status_code == 201
    with database.session() as session:
        assert session.scalars(select(DoomedObject)).all() == [], "what may have been written is deleted"
    assert stored(objects) == set(kept(database).values())


def test_an_object_without_its_upload_goes(
    database: Database, objects: ObjectStore, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the object and the row."""
    with monkeypatch.context() as broken:
        broken.setattr(service, "_arrive", _killed)
        assert put(FIRST).status_code == 500
    (orphan,) = stored(objects)
    service.collect(database, objects)
    assert stored(objects) == {orphan}, "it may still be on its way"
    _let_an_hour_pass(database)
    service.collect(database, objects)
    assert stored(objects) == set()


def test_one_that_arrives_too_late_is_not_kept(
    database: Database, objects: ObjectStore, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its object may be gone at any moment."""
    real = ObjectStore.put

    def slowly(self: ObjectStore, key: str, content: Any) -> None:
        real(self, key, content)
        _let_an_hour_pass(database)

    with monkeypatch.context() as slow:
        slow.setattr(ObjectStore, "put", slowly)
        assert put(FIRST).status_code == 503
    assert kept(database) == {}
    assert put(FIRST).status_code == 201
    assert stored(objects) == set(kept(database).values())


def test_the_same_from_many_at_once(app: FastAPI, database: Database, objects: ObjectStore, put: Any) -> None:
    app.state.settings = app.state.settings.model_copy(update={"max_uploads_bytes": 2**30})
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: put(FIRST), range(4)))
    assert {answer.status_code for answer in answers} <= {201, 204}
    service.collect(database, objects)
    assert stored(objects) == set(kept(database).values())
    assert len(kept(database)) == 1


def test_a_package_is_found_while_its_upload_is_there(database: Database, tenant: Tenant, put: Any) -> None:
    customer_id, name = tenant.customer.id, "gcs/_ray_pkg_1.zip"

    def find() -> str | None:
        return database.transact(lambda session: service.find_package(session, customer_id=customer_id, name=name))

    def call(digest: str) -> None:
        database.transact(
            lambda session: service.name_package(session, customer_id=customer_id, name=name, digest=digest)
        )

    assert find() is None
    call(digest_of(FIRST))
    assert find() is None, "its upload is not there"
    put(FIRST), put(SECOND)
    assert find() == digest_of(FIRST)
    call(digest_of(SECOND))
    assert find() == digest_of(SECOND)


def test_few_are_received_at_once_and_none_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def scenario() -> None:
        receiver, waiting = Receiver(), []
        for customer_id in (1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4):
            waiting.append(asyncio.create_task(_receive(receiver, endless(), customer_id)))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await _receive(receiver, endless(), 1)
        with pytest.raises(Unavailable):
            await _receive(receiver, endless(), 5)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {RequestTimeout}
        monkeypatch.setattr(receiving, "LONGEST_PAUSE_S", 30)
        assert await _receive(receiver, _pieces(b"a", b"b"), 1) == (digest_of(b"ab"), 2), "there is room again"

    monkeypatch.setattr(receiving, "LONGEST_PAUSE_S", 0.2)
    asyncio.run(scenario())


async def _receive(receiver: Receiver, pieces: AsyncIterator[bytes], customer_id: int) -> tuple[str, int]:
    async with receiver.receive(pieces, customer_id=customer_id, max_bytes=1000) as received:
        return received.digest, received.size_bytes


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _let_an_hour_pass(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("update doomed_objects set delete_at = delete_at - interval '61 minutes'"))


def _unavailable(*_: object) -> None:
    raise ObjectStoreUnavailable("not now")


def _killed(*_: object, **__: object) -> None:
    raise RuntimeError("killed on purpose")
