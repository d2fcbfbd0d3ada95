"""What an error of any layer is to the caller: one mapping for every route, told in the route's dialect."""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from embedserve.errors import EmbedserveError, internal
from embedserve.http.body import caller_left
from embedserve.http.context import request_id_of
from embedserve.http.dashscope.rendering import render_error as render_native
from embedserve.http.openai.rendering import render_error as render_openai
from embedserve.http.routing import dialect_of
from embedserve.storage.failures import name_cause, translate

log = logging.getLogger("embedserve.http")


async def tell(request: Request, error: Exception) -> Response:
    """Handler of EmbedserveError: one family of errors, one rendering a dialect."""
    assert isinstance(error, EmbedserveError)
    render = render_native if dialect_of(request.scope) == "native" else render_openai
    return render(error, request_id_of(request))


async def tell_http(request: Request, error: Exception) -> Response:
    """Handler of what the router itself refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        method = request.method[:20]
        response = await tell(request, EmbedserveError(f"Request method '{method}' is not supported."))
    elif error.status_code == 404:
        response = await tell(request, EmbedserveError("Not found!", status=404, code="NotFound"))
    else:
        response = await tell(request, EmbedserveError(error.detail, status=error.status_code))
    for name, value in (error.headers or {}).items():  # Allow
        response.headers[name] = value
    return response


async def tell_database(request: Request, error: Exception) -> Response:
    """Handler of every error of the database: one that does not answer now is 503 with ``Retry-After``."""
    assert isinstance(error, SQLAlchemyError)
    refusal = translate(error)
    if refusal is None:
        return await tell_unforeseen(request, error)
    if refusal.status >= 500:
        kind = " ".join(filter(None, (type(error).__name__, name_cause(error))))
        log.warning("request %s: the database did not answer (%s)", request_id_of(request), kind)
    return await tell(request, refusal)


async def tell_hangup(request: Request, error: Exception) -> Response:
    """Handler of a caller who left while he was sending: for the access log, nobody reads the reply."""
    return await tell(request, caller_left())


async def tell_unforeseen(request: Request, error: Exception) -> Response:
    """Handler of bugs: the caller gets an id to report, the log gets the traceback under it."""
    log.error("request %s failed", request_id_of(request), exc_info=error)
    return await tell(request, internal())
