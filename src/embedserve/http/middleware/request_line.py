"""Refuses paths and queries that mean nothing here, before anything else reads them."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from embedserve.errors import EmbedserveError
from embedserve.http.errors import tell

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""No path of ours has one, and no id."""
_UNFIT = re.compile(rb"[^\x21-\x7e]|%00")
"""In a query: what must be percent-encoded, and NUL, which no text here can hold."""


class RequestLineMiddleware:
    """404 for such a path, 400 for such a query."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: EmbedserveError | None = None
        if scope["type"] == "http":
            if _CONTROL.search(scope["path"]):
                refusal = EmbedserveError("Not found!", status=404, code="NotFound")
            elif _UNFIT.search(scope.get("query_string", b"")):
                refusal = EmbedserveError(
                    "The query of the URL holds U+0000 or characters that are not percent-encoded: leave "
                    "them out, or encode them.",
                    openai_type="invalid_request_error",
                )
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            response = await tell(Request(scope), refusal)
            await response(scope, receive, send)
