"""The internal listener's document: complete, and true about who needs a certificate."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.db.listener import Listener

DOCUMENT = "/internal/openapi.json"


@pytest.fixture
def operations(listener: Listener) -> list[tuple[str, str, dict[str, Any]]]:
    with listener.client(None) as client:
        paths = client.get(DOCUMENT).json()["paths"]
    return list(_operations(paths))


def _operations(paths: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_operation_but_those_of_joining_needs_a_certificate(
    listener: Listener, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    assert len(operations) >= 15
    open_ones = {path for _, path, operation in operations if "security" not in operation}
    assert open_ones == {"/internal/ca", "/internal/enrol"}
    with listener.client(None) as client:
        for method, path, operation in operations:
            address = re.sub(r"\{operation\}", "start", path)
            answer = client.request(method, re.sub(r"\{[a-z]+\}", "lab", address), params={"username": "lab"})
            assert (answer.status_code == 401) == ("security" in operation), (method, path, answer.text)


def test_errors_that_any_endpoint_answers_are_documented(operations: list[tuple[str, str, dict[str, Any]]]) -> None:
    for method, path, operation in operations:
        expected = {"503"} | ({"400", "413", "422"} if "requestBody" in operation else set())
        expected |= {"401", "403"} if "security" in operation else set()
        assert expected <= set(operation["responses"]), (method, path)
