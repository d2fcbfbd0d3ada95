"""Lets go of a request's memory when the last byte of its reply has been taken."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from embedserve.heap import give_back
from embedserve.scheduling.memory import Hold

KEY = "embedserve.holds"
_LARGE = 2**22
"""Bytes after which the allocator is asked to give back what became free."""


class HoldMiddleware:
    """Handlers put what counts their memory into ``scope[KEY]``; it is closed here, whatever happens."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        holds: list[Hold] = []
        scope[KEY] = holds
        try:
            await self.app(scope, receive, send)
        finally:
            for hold in holds:
                large = hold.peak > _LARGE
                hold.close()
                if large:
                    give_back()
