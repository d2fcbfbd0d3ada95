"""Reading a request body as JSON, whatever was sent."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect, Request

from embedserve.errors import EmbedserveError
from embedserve.http.bounded_json import JSONError, parse_json

__all__ = ["malformed", "parse_json", "read_bytes", "read_json"]


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
        parsed = parse_json(body)
    except JSONError:
        raise malformed() from None
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
