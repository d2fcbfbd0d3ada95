"""Which dialect an error is told in, and the last resort for what nobody foresaw."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from embedserve.errors import EmbedserveError
from embedserve.http.context import request_id_of
from embedserve.http.dashscope.rendering import render_error as render_native
from embedserve.http.openai.rendering import render_error as render_openai

log = logging.getLogger("embedserve.http")

NATIVE_PREFIXES = ("/api/", "/services/", "/tasks")


async def tell(request: Request, error: Exception) -> Response:
    """Handler of EmbedserveError: one family of errors, one rendering a dialect."""
    assert isinstance(error, EmbedserveError)
    native = request.url.path.startswith(NATIVE_PREFIXES)
    return (render_native if native else render_openai)(error, request_id_of(request))


async def tell_http(request: Request, error: Exception) -> Response:
    """Handler of what the router itself refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return await tell(request, EmbedserveError(f"Request method '{request.method}' is not supported."))
    if error.status_code == 404:
        return await tell(request, EmbedserveError("Not found!", status=404, code="NotFound"))
    return await tell(request, EmbedserveError(error.detail, status=error.status_code))


async def tell_unforeseen(request: Request, error: Exception) -> Response:
    """Handler of bugs: the caller gets an id to report, the log gets the traceback under it."""
    log.error("request %s failed", request_id_of(request), exc_info=error)
    return await tell(
        request,
        EmbedserveError(
            # "occured": the original's spelling, which clients may match on
            "An internal error has occured, please try again later or contact service support.",
            status=500,
            code="InternalError",
            openai_code="internal_error",
        ),
    )
