"""What the application does before and around every endpoint."""

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DataError

from api.app import create_app
from api.db import Database
from api.reading import Statement
from api.settings import Settings
from tests.db.conftest import Person, Tenant


def test_health_and_document(app_client: TestClient) -> None:
    assert app_client.get("/health").json() == {"status": "ok"}
    document = app_client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    me = document["paths"]["/api/v1/auth/me"]["get"]
    assert {"200", "401", "403", "429"} <= set(me["responses"])
    assert me["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_unknown_path_is_a_problem(app_client: TestClient) -> None:
    answer = app_client.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


def test_wrong_method_is_a_problem(app_client: TestClient) -> None:
    answer = app_client.delete("/health")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


def test_bad_bodies_are_problems(app_client: TestClient) -> None:
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"username": 1, "password": "s3cret-value"}'):
        answer = app_client.post("/api/v1/auth/login", content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) in ((422, "validation"), (400, "bad_request")), content
        assert "s3cret-value" not in answer.text


def test_oversized_body_is_refused(app_client: TestClient, settings: Settings) -> None:
    body = b'{"username": "' + b"x" * settings.max_body_bytes + b'"}'
    declared = app_client.post("/api/v1/auth/login", content=body, headers={"content-type": "application/json"})
    chunks = app_client.post("/api/v1/auth/login", content=iter([body[:1000], body[1000:]]))
    for answer in (declared, chunks):
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_failure_leaks_nothing(app: FastAPI, app_client: TestClient, admin: Person) -> None:
    app.state.database = None  # every endpoint fails on it
    answer = app_client.get("/api/v1/auth/me", headers=admin.headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "NoneType" not in answer.text and "Traceback" not in answer.text


def test_an_error_of_the_database_repeats_no_values(database: Database) -> None:
    """It is logged as it is."""
    statement, values = text("select 1 / 0 where :secret <> ''"), {"secret": "s3cret-value"}
    with pytest.raises(DataError) as written:
        database.transact(lambda session: session.execute(statement, values))
    with pytest.raises(errors.DivisionByZero) as read:
        asyncio.run(database.read(Statement(statement), values))
    for failed in (written, read):
        assert "division by zero" in str(failed.value)
        assert "s3cret-value" not in str(failed.value)


def test_security_headers(app_client: TestClient) -> None:
    headers = app_client.get("/health").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "strict-transport-security" not in headers


def test_cors_is_an_explicit_list(settings: Settings, database: Database) -> None:
    listed = settings.model_copy(update={"cors_origins": ("https://console.test",)})
    with TestClient(create_app(listed, database)) as client:
        good = client.get("/health", headers={"origin": "https://console.test"})
        bad = client.get("/health", headers={"origin": "https://evil.test"})
    assert good.headers["access-control-allow-origin"] == "https://console.test"
    assert "access-control-allow-credentials" not in good.headers
    assert "access-control-allow-origin" not in bad.headers


def test_tenant_cannot_reach_admin(app_client: TestClient, tenant: Tenant) -> None:
    answer = app_client.get("/api/v1/admin/customers", headers=tenant.owner.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
