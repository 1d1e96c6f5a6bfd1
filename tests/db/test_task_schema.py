"""The schema of a task, as editors fetch it."""

from fastapi.testclient import TestClient

from api.app import API
from api.tasks.schema import task_schema


def test_the_schema_is_public(app_client: TestClient) -> None:
    answer = app_client.get(f"{API}/schemas/task.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/schema+json")
    assert answer.json() == task_schema()
