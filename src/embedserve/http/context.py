"""What a handler knows about its request."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from embedserve.accounts.caller import Caller
from embedserve.http.front.hook import hook_of
from embedserve.http.middleware.hold import KEY as HOLDS
from embedserve.http.note import note_of
from embedserve.jobs.store import Jobs
from embedserve.scheduling.memory import Hold
from embedserve.service import EmbeddingService, EmbedReply

P = ParamSpec("P")
T = TypeVar("T")

CUT_HEADER = "x-embedserve-truncated"


def service_of(request: Request) -> EmbeddingService:
    service: EmbeddingService = request.app.state.service
    return service


def jobs_of(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def hold_of(request: Request, caller: Caller) -> Hold:
    """What counts this request's memory until its reply is sent."""
    hold = service_of(request).hold(caller)
    request.scope[HOLDS].append(hold)
    return hold


async def in_database(request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Blocking work on the database, for as long as its timeout allows. Raises SQLAlchemyError."""
    return await service_of(request).accounts.database.run(work, *args, **kwargs)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave this request; it goes into the body and the ``x-request-id`` header."""
    request_id: str = request.scope["embedserve.request_id"]
    return request_id


async def authenticate(request: Request) -> Caller:
    """The caller behind ``Authorization: Bearer``. Raises EmbedserveError (401, 503)."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    caller = await service_of(request).accounts.authenticate(
        secret.strip() if scheme.lower() == "bearer" else None,
        request.headers.get("x-dashscope-workspace"),
    )
    if front := hook_of(request.scope):
        front.vouch()
    note_of(request.scope).key = caller.key_id
    return caller


async def let_in(request: Request, call: str) -> Caller:
    """:func:`authenticate` for a call around files and jobs, which may have a rate of its own (429)."""
    caller = await authenticate(request)
    await service_of(request).accounts.admit_call(caller, call)
    return caller


def cut_headers(answer: EmbedReply) -> dict[str, str]:
    """``x-embedserve-truncated: 0=12,3=400``: tokens that ``truncate`` dropped, by row; absent if none."""
    cuts = ",".join(f"{row}={tokens}" for row, tokens in answer.cuts.items())
    return {CUT_HEADER: cuts} if cuts else {}
