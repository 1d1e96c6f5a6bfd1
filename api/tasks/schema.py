"""The JSON Schema of a task's document (draft 2020-12), from the models that check it: editors complete and explain."""

from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from api.tasks.spec import TaskSpec

Json = Any  # a JSON document


@cache
def task_schema() -> dict[str, Json]:
    """The schema. What relates several fields (`shm` within `memory`) only the platform checks."""
    schema = TaskSpec.model_json_schema()
    schema.pop("title")
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "RemoteGPU task", **_tidy(schema)}


def _tidy(part: Json) -> Json:
    """Without titles that repeat the key, and with no other keys in a mapping than those of its patterns."""
    if isinstance(part, list):
        return [_tidy(each) for each in part]
    if not isinstance(part, dict):
        return part
    tidy = {key: _tidy(value) for key, value in part.items() if not (key == "title" and isinstance(value, str))}
    return {**tidy, "additionalProperties": False} if "patternProperties" in tidy else tidy
