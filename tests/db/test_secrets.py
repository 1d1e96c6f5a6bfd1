"""Secrets of a workspace: set, named, revealed to what runs, and never to be read anywhere else."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.app import API
from api.db import Database
from api.errors import Unprocessable
from api.secrets import service
from api.secrets.schemas import MAX_VALUE_BYTES
from api.secrets.tables import Secret
from api.settings import Settings
from api.tables import metadata
from deploy.postgres import EmbeddedPostgres
from tests.db.conftest import Person, Tenant

PLACE = f"{API}/customer/workspaces/default/secrets"
VALUE = "tell-nobody-5f1c9e"


@pytest.fixture
def put(app_client: TestClient, tenant: Tenant) -> Any:
    def put(name: str, value: Any, *, place: str = PLACE, who: Person = tenant.member) -> httpx.Response:
        answer: Any = app_client.put(f"{place}/{name}", json={"value": value}, headers=who.headers)
        return answer

    return put


def revealed(database: Database, settings: Settings, tenant: Tenant, *names: str) -> dict[str, str]:
    def work(session: Session) -> dict[str, str]:
        return service.reveal(session, settings, workspace_id=tenant.workspace.id, names=names)

    return database.transact(work)


def test_what_was_put_is_named_and_revealed(
    app_client: TestClient, database: Database, settings: Settings, tenant: Tenant, put: Any
) -> None:
    assert put("HF_TOKEN", "first").status_code == 200
    made = put("HF_TOKEN", VALUE).json()
    assert made["updated_at"] > made["created_at"]
    assert put("A", "ä\n").status_code == 200
    page = app_client.get(PLACE, headers=tenant.owner.headers).json()
    assert [item["name"] for item in page["items"]] == ["A", "HF_TOKEN"], "newest first"
    assert {key for item in page["items"] for key in item} == {"name", "created_at", "updated_at"}
    assert revealed(database, settings, tenant, "HF_TOKEN", "A") == {"HF_TOKEN": VALUE, "A": "ä\n"}
    assert revealed(database, settings, tenant) == {}


def test_a_removed_one_is_gone(
    app_client: TestClient, database: Database, settings: Settings, tenant: Tenant, put: Any
) -> None:
    put("A", VALUE)
    assert app_client.delete(f"{PLACE}/A", headers=tenant.member.headers).status_code == 204
    assert app_client.delete(f"{PLACE}/A", headers=tenant.member.headers).status_code == 404
    with pytest.raises(Unprocessable, match="'A'") as refused:
        revealed(database, settings, tenant, "A")
    assert refused.value.code == "unknown_secret"


def test_what_can_not_be_a_secret_is_refused(put: Any) -> None:
    for name in ("1A", "A-B", "A" * 129, "REMOTEGPU_X", "NVIDIA_VISIBLE_DEVICES"):
        assert put(name, VALUE).status_code == 422, name
    for value in ("", "a\0b", "x" * (MAX_VALUE_BYTES + 1), "ä" * (MAX_VALUE_BYTES // 2 + 1), 5, None, [VALUE]):
        answer = put("A", value)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation"), value
    assert put("A", "x" * MAX_VALUE_BYTES).status_code == 200
    assert put("A", "a", place=PLACE.replace("default", "nowhere")).status_code == 404


def test_a_workspace_has_a_bounded_number(
    database: Database, tenant: Tenant, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_SECRETS", 2)
    assert [put(name, "x").status_code for name in ("A", "B", "A", "C")] == [200, 200, 200, 409]
    assert put("C", "x").json()["code"] == "too_many_secrets"


def test_another_key_reads_nothing(
    database: Database, settings: Settings, tenant: Tenant, tmp_path: Path, put: Any
) -> None:
    put("A", VALUE)
    (tmp_path / "signing_key_secret").write_text("another")
    with pytest.raises(Unprocessable, match="'A'") as refused:
        revealed(database, settings.model_copy(update={"secrets_dir": tmp_path}), tenant, "A")
    assert refused.value.code == "secret_unreadable"


def test_what_is_moved_to_another_row_is_not_read_there(
    database: Database, settings: Settings, tenant: Tenant, other_tenant: Tenant, put: Any
) -> None:
    put("A", VALUE)
    put("A", "own", who=other_tenant.owner)
    values = {"mine": tenant.workspace.id, "theirs": other_tenant.workspace.id}
    move = "update secrets set sealed = (select sealed from secrets where workspace_id = :mine)"
    database.transact(lambda session: session.execute(text(f"{move} where workspace_id = :theirs"), values))
    with pytest.raises(Unprocessable):
        revealed(database, settings, other_tenant, "A")
    assert revealed(database, settings, tenant, "A") == {"A": VALUE}


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_a_value_is_nowhere_to_be_read(
    app_client: TestClient, database: Database, postgres: EmbeddedPostgres, tenant: Tenant, put: Any,
    written: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not in answers, also to requests that are wrong, nor in logs, nor in any table, nor in the server's own log."""
    answers = [put("B", VALUE), put("B", VALUE), put("1A", VALUE), put("A", VALUE + "\0"), put("A", [VALUE])]
    bodies = ({VALUE: "x"}, {"value": {VALUE: 1}}, VALUE, [VALUE], {"value": "x", VALUE: 1})
    headers = tenant.member.headers
    answers += [app_client.put(f"{PLACE}/A", json=body, headers=headers) for body in bodies]
    answers.append(app_client.put(f"{PLACE}/A", content=f'{{"value": "{VALUE}', headers=headers))
    answers.append(app_client.get(PLACE, headers=headers))
    monkeypatch.setattr(service, "record", _fails)
    answers.append(put("A", VALUE))
    assert [answer.status_code for answer in answers] == [200, 200] + [422] * 7 + [200, 422, 200, 500]
    assert [answer.text for answer in answers if VALUE in answer.text] == []
    assert "failed" in written.text and VALUE not in written.text
    with database.session() as session:
        assert session.get(Secret, (tenant.workspace.id, "B")) is not None
    dump = everything(database)
    assert "secret.replace" in dump and VALUE not in dump and VALUE.encode().hex() not in dump
    assert VALUE not in postgres.log.read_text()


def everything(database: Database) -> str:
    """All that the database holds, as text; bytes are hexadecimal."""
    with database.session() as session:
        return "\n".join(
            row for name in metadata.tables for row in session.scalars(text(f"select t::text from {name} t"))
        )


def _fails(*_: object, **__: object) -> None:
    raise RuntimeError("failed on purpose")
