"""The OpenAPI documents: what the guard and the error handling imply for each endpoint is added to what it declares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import Problem
from api.problems import problem_response

_METHODS = frozenset({"get", "head", "post", "put", "patch", "delete"})


@dataclass(frozen=True, slots=True)
class Guard:
    """Who an application lets in: `scheme` is its OpenAPI security scheme, called `name`.

    `guards` says of a method and a path template whether that asks for it. `always` are the error statuses of all.
    """

    name: str
    scheme: dict[str, str]
    guards: Callable[[str, str], bool]
    always: Sequence[int]


def install(app: FastAPI, guard: Guard) -> None:
    """Let `app` serve a document that is complete, computed once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, guard)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _document(app: FastAPI, guard: Guard) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    components["securitySchemes"] = {guard.name: guard.scheme}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                _complete(operation, guard, guarded=guard.guards(method.upper(), path))
    return document


def _complete(operation: dict[str, Any], guard: Guard, *, guarded: bool) -> None:
    responses = operation["responses"]
    statuses = list(guard.always)
    if guarded:
        statuses += [401, 403]
        operation["security"] = [{guard.name: []}]
    if "422" in responses or "requestBody" in operation:
        responses["422"] = problem_response(422)
    if "requestBody" in operation:
        statuses += [400, 413]
    for status in statuses:
        responses.setdefault(str(status), problem_response(status))
