"""JSON replies: key order as written, NumPy arrays without a detour through Python floats."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from embedserve.embedding.embedder import Embedding
from embedserve.errors import EmbedserveError, RowError

ROW_HEADER: Final = "x-embedserve-row"
AT_ONCE: Final = 20_480
"""Numbers that are rendered in one step: ten vectors of 2,048, about a millisecond."""
_ENTRY: Final = 8
"""A sparse entry takes as long as so many numbers."""


class JSONReply(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONReply:
    return JSONReply(content, status, headers)


class RowsReply(Response):
    """A reply of many vectors, rendered as the client takes it: never more of it is there than a piece.

    Args:
        shell: the reply with an empty list where the rows belong, the first list in it.
        rows: what the list holds.
        render: one row and its number, as JSON content.
    """

    media_type = "application/json"

    def __init__(
        self,
        shell: Any,
        rows: Sequence[Embedding | EmbedserveError],
        render: Callable[[Any, int], Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._shell, self._rows, self._render = shell, rows, render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # others' turn
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[bytes]:
        head, tail = orjson.dumps(self._shell).split(b"[]", 1)
        piece, weight = [], 0
        lead = head + b"["
        for i, row in enumerate(self._rows):
            piece.append(self._render(row, i))
            weight += weight_of(row)
            if weight >= AT_ONCE:
                yield lead + orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
                piece, weight, lead = [], 0, b","
        if piece:
            yield lead + orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        yield b"]" + tail


def weight_of(row: Embedding | EmbedserveError) -> int:
    """What rendering a row takes, in numbers."""
    if isinstance(row, EmbedserveError):
        return _ENTRY
    numbers = 0 if row.dense is None else len(row.dense)
    return _ENTRY + numbers + (0 if row.sparse is None else _ENTRY * len(row.sparse.indices))


def is_large(rows: Sequence[Embedding | EmbedserveError]) -> bool:
    """Whether a reply of these rows takes more than a moment to render."""
    return len(rows) > AT_ONCE // _ENTRY or sum(map(weight_of, rows)) > AT_ONCE + _ENTRY * len(rows)


def error_headers(error: EmbedserveError) -> dict[str, str]:
    """What a refusal says beside its body, whose words are the original's.

    ``Retry-After`` in whole seconds, at least one, where a repeat would help; ``x-embedserve-row``, the
    number from 0 of the text at fault, where it is one.
    """
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, RowError):
        headers[ROW_HEADER] = str(error.row)
    return headers
