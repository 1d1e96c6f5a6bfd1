"""What is published about tasks."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.tasks.schema import task_schema

router = APIRouter(tags=["tasks"])


class SchemaResponse(JSONResponse):
    media_type = "application/schema+json"


@router.get("/schemas/task.json", response_class=SchemaResponse)
def show_task_schema() -> dict[str, Any]:  # Any: a JSON Schema
    """The JSON Schema of a task's document, for editors and other tools."""
    return task_schema()
