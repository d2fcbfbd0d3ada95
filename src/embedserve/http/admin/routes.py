"""Every route of the admin API, and their description in OpenAPI from the same table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from embedserve import __version__
from embedserve.http.admin import keys, usage
from embedserve.http.json import reply
from embedserve.http.routing import DialectRoute


@dataclass(frozen=True, slots=True)
class Operation:
    """One way in: the handler and what goes in and comes out."""

    method: str
    path: str
    handler: Any
    answer: type[BaseModel]
    status: int = 200
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None


OPERATIONS = (
    Operation("GET", "/admin/keys", keys.list_keys, keys.KeyList),
    Operation("POST", "/admin/keys", keys.create_key, keys.KeyWithSecret, 201, body=keys.NewKey),
    Operation("GET", "/admin/keys/{id}", keys.get_key, keys.Key),
    Operation("PATCH", "/admin/keys/{id}", keys.change_key, keys.Key, body=keys.KeyChange),
    Operation("POST", "/admin/keys/{id}/revoke", keys.revoke_key, keys.Key),
    Operation("POST", "/admin/keys/{id}/rotate", keys.rotate_key, keys.KeyWithSecret, body=keys.Rotation),
    Operation("GET", "/admin/usage", usage.get_usage, usage.UsageReport, query=usage.UsageQuery),
)

ERROR = {
    "description": "Refused; the message says why.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
        "request_id": {"type": "string"},
    },
}


def admin_routes() -> list[BaseRoute]:
    routes: list[BaseRoute] = [DialectRoute("/admin/openapi.json", get_description)]
    return routes + [DialectRoute(o.path, o.handler, methods=[o.method]) for o in OPERATIONS]


async def get_description(request: Request) -> Response:
    """The admin API in OpenAPI 3.1; holds nothing secret, so nobody is asked for a key."""
    return reply(describe())


def describe() -> dict[str, Any]:
    models: list[type[BaseModel]] = [o.answer for o in OPERATIONS]
    models += [o.body for o in OPERATIONS if o.body]
    _, schemas = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedserve admin API", "version": __version__},
        "security": [{"adminKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"] | {"Error": ERROR_SCHEMA},
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _reference(operation.answer)}}
    if operation.handler is usage.get_usage:
        content["text/csv"] = {"schema": {"type": "string"}}
    told: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": (operation.handler.__doc__ or "").strip(),
        "responses": {
            str(operation.status): {"description": "Done.", "content": content},
            **{status: ERROR for status in ("400", "401", "404", "503")},
        },
    }
    parameters = []
    if "{id}" in operation.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    if operation.query:
        for name, schema in operation.query.model_json_schema()["properties"].items():
            parameters.append({"name": name, "in": "query", "schema": schema})
    if parameters:
        told["parameters"] = parameters
    if operation.body:
        told["requestBody"] = {"content": {"application/json": {"schema": _reference(operation.body)}}}
    return told


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
