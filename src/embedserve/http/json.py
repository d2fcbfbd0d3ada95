"""JSON replies: key order as written, NumPy arrays without a detour through Python floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from embedserve.errors import EmbedserveError


class JSONReply(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONReply:
    return JSONReply(content, status, headers)


def retry_headers(error: EmbedserveError) -> dict[str, str]:
    """``Retry-After`` in whole seconds, at least one; nothing where a repeat would not help."""
    if error.retry_after is None:
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after)))}
