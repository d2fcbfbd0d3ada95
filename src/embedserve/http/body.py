"""Reading a request body, whatever was sent, in memory that was reserved before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from starlette.requests import Request

from embedserve.catalogue import MODELS
from embedserve.errors import EmbedserveError, bad_length
from embedserve.http.bounded_json import SMALL, JSONError, StringTooLongError, parse_json
from embedserve.http.coding import refuse_coded
from embedserve.scheduling.memory import Hold

__all__ = ["SMALL", "caller_left", "malformed", "parse_json", "read_json"]

LONGEST_TEXT: Final = max(card.max_tokens for card in MODELS.values())
FREE: Final = 4096
"""Bytes of a body that the overhead of every request covers."""
_STEP: Final = 64 * 1024
"""What is reserved at a time of a body that comes in, with an eighth more for the slack of the buffer."""


def malformed(why: str = "") -> EmbedserveError:
    told = f": {why}." if why else "."
    return EmbedserveError(
        f"Required body invalid, please check the request body format{told}",
        openai_code="invalid_request_error",
        openai_type="invalid_request_error",
    )


def _too_large(limit: int) -> EmbedserveError:
    return EmbedserveError(
        f"Payload Too Large: the body is over {limit} bytes; send fewer texts a request, or "
        "raise EMBEDSERVE_MAX_BODY_BYTES",
        code="BadRequest.TooLarge",
        openai_type="invalid_request_error",
    )


def caller_left() -> EmbedserveError:
    """Nobody reads this but the access log; 499 is what proxies call it, too."""
    return EmbedserveError(
        "The caller hung up before the reply.",
        status=499,
        code="ClientClosedRequest",
        openai_code="client_closed_request",
    )


async def read_json(
    request: Request,
    limit: int,
    hold: Hold | None = None,
    run: Callable[..., Awaitable[Any]] = asyncio.to_thread,
) -> dict[str, Any]:
    """The body as a JSON object.

    Args:
        limit: bytes of the body.
        hold: counts the body while it is there and what is read from it; without one ``limit`` must be small.
        run: calls a function in a thread, for bodies that take more than a moment.

    Raises:
        EmbedserveError: 400 over ``limit`` bytes and for anything that is not a JSON object; 415 compressed;
            503 where memory is short, before the body is read; 499 where the caller hung up.
    """
    refuse_coded(request)
    body = await _read_body(request, limit, hold)
    try:
        if len(body) <= SMALL:
            try:
                parsed = orjson.loads(body)
            except orjson.JSONDecodeError:  # a mistake, or what a more careful reader can mend
                parsed = await run(parse_json, body)
        else:
            parsed = await run(parse_json, body, hold.grow if hold else None)
            if hold:
                hold.shrink(_reserved(len(body)))
    except StringTooLongError:  # whatever field it is: no text of this size is read
        raise bad_length(LONGEST_TEXT, 0, LONGEST_TEXT + 1) from None
    except JSONError as error:
        raise malformed("" if len(body) <= SMALL else str(error)) from None
    if not isinstance(parsed, dict):
        raise malformed()
    return parsed


def _reserved(size: int) -> int:
    """What a body of so many bytes takes while it grows, in whole steps."""
    return 0 if size <= FREE else -(-size // _STEP) * (_STEP + _STEP // 8)


async def _read_body(request: Request, limit: int, hold: Hold | None) -> bytes | bytearray:
    declared = request.headers.get("content-length", "")
    expected = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else 0
    if expected > limit:
        raise _too_large(limit)
    if hold and expected > SMALL:
        hold.check(_reserved(expected))
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise _too_large(limit)
        if hold and len(whole) > FREE:
            hold.grow(4 * len(whole))  # what is read from it, too: a character takes four bytes at most
        return whole
    body, reserved = bytearray(), 0
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if hold and (needed := _reserved(len(body))) > reserved:
            hold.grow(needed - reserved)
            reserved = needed
        if not message.get("more_body"):
            if hold and len(body) <= SMALL:
                hold.grow(4 * len(body))
            return body
        message = await request.receive()
    raise caller_left()
