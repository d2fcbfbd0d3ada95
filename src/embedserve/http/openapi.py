"""The API described in OpenAPI 3.1: ``GET /openapi.json``.

Written by hand beside the parsers, because the wire is the original's and not derived from types of ours;
tests hold that every route is described, that every description has its route, and (schemathesis) that
what the server answers is what is described. The admin API describes itself (``/admin/openapi.json``).
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from embedserve import __version__
from embedserve.catalogue import MODELS
from embedserve.http.json import reply

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
UUID: Schema = {"type": "string", "format": "uuid"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SIZES = sorted({size for card in MODELS.values() for size in card.dimensions})


def record(required: Schema, optional: Schema | None = None, *, more: bool = True) -> Schema:
    """An object with these properties; ``more`` allows others, which requests ignore."""
    schema: Schema = {"type": "object", "properties": required | (optional or {}), "required": list(required)}
    return schema if more else schema | {"additionalProperties": False}


def listing(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items} | limits


def schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


ROWS: Schema = {
    "oneOf": [TEXT, listing(TEXT, minItems=1)],
    "description": "One text or a list; 10 rows at most for v3 and v4, 25 for v1 and v2.",
}
SPARSE = listing(record({"index": COUNT, "value": {"type": "number"}, "token": TEXT}))
FLOATS = listing({"type": "number"})

SCHEMAS: dict[str, Schema] = {
    "OpenAIRequest": record(
        {"model": {"type": "string", "examples": list(MODELS)}, "input": ROWS},
        {
            "dimensions": {"enum": SIZES, "description": "1024 if absent; ignored by v1 and v2."},
            "encoding_format": {"enum": ["float", "base64"], "default": "float"},
            "user": TEXT,
        },
    ),
    "OpenAIReply": record(
        {
            "data": listing(
                record(
                    {
                        "embedding": {"oneOf": [FLOATS, {"type": "string", "contentEncoding": "base64"}]},
                        "index": COUNT,
                        "object": {"const": "embedding"},
                    },
                    {"sparse_embedding": SPARSE, "error": record({"message": TEXT, "code": TEXT})},
                    more=False,
                )
            ),
            "model": TEXT,
            "object": {"const": "list"},
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}, more=False),
            "id": UUID,
        },
        more=False,
    ),
    "OpenAIError": record(
        {
            "error": record(
                {
                    "message": TEXT,
                    "type": {"type": ["string", "null"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
                more=False,
            ),
            "request_id": UUID,
        },
        {"id": UUID},
        more=False,
    ),
    "NativeRequest": record(
        {
            "model": {"type": "string", "examples": list(MODELS)},
            "input": record({}, {"texts": ROWS, "url": TEXT}),
        },
        {
            "parameters": record(
                {},
                {
                    "text_type": {"enum": ["query", "document"]},
                    "dimension": {"enum": SIZES, "description": "1024 if absent; ignored by v1 and v2."},
                    "output_type": {"enum": ["dense", "sparse", "dense&sparse"], "default": "dense"},
                    "instruct": TEXT,
                },
            )
        },
    ),
    "NativeReply": record(
        {
            "output": {
                "oneOf": [
                    record({"embeddings": listing(schema("NativeRow"))}, more=False),
                    record({"task_status": TEXT, "task_id": TEXT}, more=False),
                ]
            },
            "request_id": UUID,
        },
        {"usage": record({"total_tokens": COUNT}, more=False)},
        more=False,
    ),
    "NativeRow": record(
        {"text_index": COUNT},
        {"embedding": FLOATS, "sparse_embedding": SPARSE, "error": record({"code": TEXT, "message": TEXT})},
        more=False,
    ),
    "NativeError": record({"code": TEXT, "message": TEXT, "request_id": UUID}, more=False),
    "Model": record({"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT}),
    "File": record(
        {"id": TEXT, "object": {"const": "file"}, "bytes": COUNT, "filename": TEXT, "purpose": TEXT}
    ),
    "Batch": record({"id": TEXT, "object": {"const": "batch"}, "endpoint": TEXT, "status": TEXT}),
    "Task": record({"request_id": UUID}, {"output": {"type": "object"}, "usage": {}}),
}

Operations = dict[tuple[str, str], Schema]


def operation(
    summary: str,
    answer: Schema | None,
    *,
    error: str,
    body: Schema | None = None,
    query: dict[str, Schema] | None = None,
    statuses: tuple[int, ...] = (400, 401, 403, 404, 429, 503),
    media: str = "application/json",
    open: bool = False,
) -> Schema:
    """One operation; ``open`` means that no key is asked for."""
    told: Schema = {"summary": summary}
    if open:
        told["security"] = []
    if query:
        told["parameters"] = [{"name": n, "in": "query", "schema": s} for n, s in query.items()]
    if body:
        told["requestBody"] = {"required": True, "content": body}
    told["responses"] = {
        "200": {
            "description": "Done.",
            "headers": {"x-request-id": {"required": True, "schema": UUID}},
            "content": {media: {"schema": answer or {}}},
        },
        **{
            str(status): {
                "description": "Refused; code and message say why.",
                "headers": {"x-request-id": {"required": True, "schema": UUID}},
                "content": {"application/json": {"schema": schema(error)}},
            }
            for status in statuses
        },
    }
    return told


def as_json(name: str) -> Schema:
    return {"application/json": {"schema": schema(name)}}


OBJECT: Schema = {"type": "object"}
PAGE: dict[str, Schema] = {"limit": {"type": "integer", "minimum": 1, "maximum": 100}, "after": TEXT}
TASK_JSON = "application/json;charset=UTF-8"


def openai_operations() -> Operations:
    """Paths below the OpenAI-compatible root."""
    upload = record(
        {"purpose": {"const": "batch"}, "file": {"type": "string", "contentMediaType": "text/plain"}}
    )
    create = record(
        {
            "input_file_id": TEXT,
            "endpoint": {"enum": ["/v1/embeddings", "/v1/chat/ds-test"]},
            "completion_window": {"type": "string", "pattern": "^[0-9]{1,4}[hd]$"},
        },
        {"metadata": {"type": ["object", "null"], "additionalProperties": TEXT}},
    )
    page = record({"object": {"const": "list"}, "has_more": {"type": "boolean"}}, {"data": {}})
    error = "OpenAIError"
    return {
        ("POST", "/embeddings"): operation(
            "Texts to vectors", schema("OpenAIReply"), error=error, body=as_json("OpenAIRequest")
        ),
        ("GET", "/models"): operation(
            "What is served", record({"object": TEXT, "data": listing(schema("Model"))}), error=error
        ),
        ("GET", "/models/{id}"): operation("One model and what serves it", schema("Model"), error=error),
        ("POST", "/files"): operation(
            "Upload the lines of a batch",
            schema("File"),
            error=error,
            body={"multipart/form-data": {"schema": upload}},
        ),
        ("GET", "/files"): operation("Uploads and results", page, error=error, query=PAGE),
        ("GET", "/files/{id}"): operation("One file", schema("File"), error=error),
        ("DELETE", "/files/{id}"): operation("Forget a file", OBJECT, error=error),
        ("GET", "/files/{id}/content"): operation(
            "The bytes of a file", None, error=error, media="application/octet-stream"
        ),
        ("POST", "/batches"): operation(
            "Begin a batch",
            schema("Batch"),
            error=error,
            body={"application/json": {"schema": create}},
        ),
        ("GET", "/batches"): operation("Batches, latest first", page, error=error, query=PAGE),
        ("GET", "/batches/{id}"): operation("One batch", schema("Batch"), error=error),
        ("POST", "/batches/{id}/cancel"): operation(
            "Stop a batch", schema("Batch"), error=error, statuses=(400, 401, 404, 409, 429, 503)
        ),
    }


def native_operations() -> Operations:
    """Paths below the native root."""
    error = "NativeError"
    pages: dict[str, Schema] = {name: {"type": "integer", "minimum": 1} for name in ("page_no", "page_size")}
    services = "/services/embeddings"
    return {
        ("POST", f"{services}/text-embedding/text-embedding"): operation(
            "Texts to dense and sparse vectors; with X-DashScope-Async: enable, a file of texts to a task",
            schema("NativeReply"),
            error=error,
            body=as_json("NativeRequest"),
        ),
        ("POST", f"{services}/multimodal-embedding/multimodal-embedding"): operation(
            "Known by name only: always refused", OBJECT, error=error, body=as_json("NativeRequest")
        ),
        ("GET", "/models"): operation("What is served", OBJECT, error=error, query=pages),
        ("GET", "/tasks"): operation("Tasks", OBJECT, error=error, query=pages, media=TASK_JSON),
        ("GET", "/tasks/{id}"): operation(
            "One task; an unknown one has the status UNKNOWN", schema("Task"), error=error, media=TASK_JSON
        ),
        ("POST", "/tasks/{id}/cancel"): operation(
            "Stop a task that has not begun", schema("Task"), error=error, media=TASK_JSON
        ),
        ("GET", "/results/{name}"): operation(
            "The result of a task, by the signed link that the task shows",
            None,
            error=error,
            query={"Expires": TEXT, "Signature": TEXT},
            media="application/gzip",
            open=True,
        ),
    }


def operator_operations() -> Operations:
    """Paths that tools of the operator ask."""
    error = "OpenAIError"
    return {
        ("GET", "/health"): operation("The process answers", OBJECT, error=error, statuses=(), open=True),
        ("GET", "/ready"): operation("A forward pass works", OBJECT, error=error, statuses=(), open=True)
        | {"x-not-ready": "503 with the reason"},
        ("GET", "/metrics"): operation(
            "Prometheus metrics", TEXT, error=error, statuses=(), media="text/plain", open=True
        ),
        ("GET", "/openapi.json"): operation("This description", OBJECT, error=error, statuses=(), open=True),
    }


def describe() -> Schema:
    """The OpenAPI document. Aliases of the two roots serve the same and are not repeated."""
    paths: dict[str, Schema] = {}
    for root, operations in (
        ("/compatible-mode/v1", openai_operations()),
        ("/api/v1", native_operations()),
        ("", operator_operations()),
    ):
        for (method, path), told in operations.items():
            item = paths.setdefault(root + path, {})
            item[method.lower()] = told
            if "{" in path:
                name = path.partition("{")[2].partition("}")[0]
                item["parameters"] = [{"name": name, "in": "path", "required": True, "schema": TEXT}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "embedserve",
            "version": __version__,
            "description": "Text embeddings behind the OpenAI-compatible and the DashScope-native API.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


async def get_openapi(request: Request) -> Response:
    """GET /openapi.json; holds nothing secret, so nobody is asked for a key."""
    return reply(describe())
