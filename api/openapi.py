"""The OpenAPI document: what the policy and the error handling imply for each endpoint is added to what it declares."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import Problem
from api.policy import POLICY
from api.problems import problem_response

_METHODS = frozenset({"get", "post", "put", "patch", "delete"})


def install(app: FastAPI) -> None:
    """Let `app` serve a document that is complete, computed once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _document(app: FastAPI) -> dict[str, Any]:
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
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token from `/auth/login`, or an API key (`rgpu_...`).",
        }
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                _complete(operation, method=method.upper(), path=path)
    return document


def _complete(operation: dict[str, Any], *, method: str, path: str) -> None:
    responses = operation["responses"]
    rule = POLICY.get((method, path))
    statuses = [429, 503]
    if rule is None or rule.roles is not None:
        statuses += [401, 403]
        operation["security"] = [{"bearer": []}]
    if "422" in responses or "requestBody" in operation:
        responses["422"] = problem_response(422)
    if "requestBody" in operation:
        statuses += [400, 413]
    for status in statuses:
        responses.setdefault(str(status), problem_response(status))
