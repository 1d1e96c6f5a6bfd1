"""What the application does before and around every endpoint."""

from fastapi.testclient import TestClient


def test_health_and_document(app_client: TestClient) -> None:
    assert app_client.get("/health").json() == {"status": "ok"}
    document = app_client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")


def test_unknown_path_is_a_problem(app_client: TestClient) -> None:
    answer = app_client.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
