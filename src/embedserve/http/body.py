"""Reading a request body as JSON, whatever was sent."""

from __future__ import annotations

import json
from typing import Any

import orjson
from starlette.requests import Request

from embedserve.errors import EmbedserveError


def malformed() -> EmbedserveError:
    return EmbedserveError(
        "Required body invalid, please check the request body format.",
        openai_code="invalid_request_error",
        openai_type="invalid_request_error",
    )


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        EmbedserveError: 413 over ``limit`` bytes, 400 for anything that is not a JSON object.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise EmbedserveError(
                f"Payload Too Large: the body is over {limit} bytes; send fewer texts a request, or raise "
                "EMBEDSERVE_MAX_BODY_BYTES",
                status=413,
                code="BadRequest.TooLarge",
                openai_type="invalid_request_error",
            )
        chunks.append(chunk)
    body = b"".join(chunks)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = _read_leniently(body)
    if not isinstance(parsed, dict):
        raise malformed()
    return parsed


def _read_leniently(body: bytes) -> Any:
    """JavaScript clients may cut a text inside a surrogate pair: legal JSON, refused by the strict parser."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise malformed() from None
