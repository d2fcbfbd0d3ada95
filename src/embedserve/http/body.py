"""Reading a request body as JSON, whatever was sent."""

from __future__ import annotations

import json
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

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
        EmbedserveError: 400 over ``limit`` bytes and for anything that is not a JSON object.
    """
    body = await read_bytes(request, limit)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = _read_leniently(body)
    if not isinstance(parsed, dict):
        raise malformed()
    return parsed


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body. Raises EmbedserveError (400) over ``limit`` bytes, and where the client went away."""
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise EmbedserveError(
                    f"Payload Too Large: the body is over {limit} bytes; send fewer texts a request, or "
                    "raise EMBEDSERVE_MAX_BODY_BYTES",
                    code="BadRequest.TooLarge",
                    openai_type="invalid_request_error",
                )
            chunks.append(chunk)
    except ClientDisconnect:  # nobody reads the answer; it must not be counted as our failure
        raise malformed() from None
    return b"".join(chunks)


def _read_leniently(body: bytes) -> Any:
    """JavaScript clients may cut a text inside a surrogate pair: legal JSON, refused by the strict parser.

    The halves become U+FFFD, so that nothing behind this door meets a string that has no UTF-8 form.
    """
    try:
        told = json.dumps(json.loads(body), ensure_ascii=False)
        return orjson.loads(told.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        raise malformed() from None
