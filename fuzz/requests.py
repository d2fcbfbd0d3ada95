"""A request without a server: what the readers of bodies see of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

loop = asyncio.new_event_loop()


def cut(data: bytes, sizes: bytes) -> list[bytes]:
    """``data`` in pieces; the bytes of ``sizes`` say how long each is, over and over."""
    if not any(sizes):
        return [data]
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        turn += 1
        if size:
            pieces.append(data[at : at + size])
            at += size
    return pieces


def request_of(pieces: Sequence[bytes], headers: dict[str, str], *, whole: bool = True) -> Request:
    """A POST whose body comes in ``pieces``, and then ends, or with the caller's leave."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    messages.append({"type": "http.request", "body": b""} if whole else {"type": "http.disconnect"})
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(coming, {"type": "http.disconnect"})

    encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": encoded}, receive)


async def at_once(function: Any, *arguments: Any) -> Any:
    """In place of a thread."""
    return function(*arguments)
