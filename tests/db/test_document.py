"""What the OpenAPI document promises of kinds of endpoints, and that they keep it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import API
from api.policy import POLICY
from api.principal import Role
from tests.db.conftest import Person, Tenant

NOWHERE = "01890000-0000-7000-8000-000000000000"
FOR_STRANGERS = {f"{API}/auth/register", f"{API}/auth/invitations/accept"}  # nobody's keys: a name is taken only once
BY_CONTENT = {f"{API}/customer/uploads/{{digest}}"}  # the same again changes nothing


@pytest.fixture
def document(app_client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = app_client.get(f"{API}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def parameters(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each["schema"] for each in operation.get("parameters", [])}


def lists(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    def answers_a_list(operation: dict[str, Any]) -> bool:
        schema = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        return "next_cursor" in document["components"]["schemas"].get(name, {}).get("properties", {})

    return [(path, each) for method, path, each in operations(document) if method == "GET" and answers_a_list(each)]


def test_every_creation_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    creating = [(path, each) for method, path, each in operations(document) if "201" in each["responses"]]
    assert len(creating) >= 10
    without = {path for path, operation in creating if "Idempotency-Key" not in parameters(operation)}
    assert without == FOR_STRANGERS | BY_CONTENT


def test_every_list_is_paged_within_bounds(
    document: dict[str, Any], app_client: TestClient, admin: Person, tenant: Tenant
) -> None:
    assert len(lists(document)) >= 15
    for path, operation in lists(document):
        limit = parameters(operation)["limit"]
        assert (limit["minimum"], limit["maximum"]) == (1, 200), path
        roles = POLICY["GET", path].roles
        assert roles is not None, path
        headers = (admin if Role.ADMIN in roles else tenant.owner).headers
        address = re.sub(r"\{[^}]+\}", NOWHERE, path)
        for params, statuses in (
            ({"limit": 0}, {422}), ({"limit": 201}, {422}), ({"limit": 1}, {200, 404}), ({"limit": 200}, {200, 404}),
            ({"cursor": "!"}, {400, 404}), ({"cursor": "x" * 201}, {422}),
        ):  # fmt: skip
            answer = app_client.get(address, params=params, headers=headers)
            assert answer.status_code in statuses, (path, params, answer.text)


def test_errors_that_any_endpoint_answers_are_documented(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        expected = {"429", "503"} | ({"400", "413", "422"} if "requestBody" in operation else set())
        expected |= {"401", "403"} if POLICY[method, path].roles is not None else set()
        assert expected <= set(operation["responses"]), (method, path)
