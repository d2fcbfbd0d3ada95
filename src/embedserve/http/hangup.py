"""What to do with a caller who hangs up: end his work, bill nothing."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import Request

from embedserve.http.body import caller_left
from embedserve.http.front.hook import hook_of

LISTEN_AFTER = 0.1
"""Seconds after which a server that does not tell of hang-ups is asked: nearly all replies come sooner."""


class Hangup:
    """Ends the block that it surrounds with a 499 when the caller hangs up; the body must have been read.

    Our front tells of it by a callback. Another ASGI server is asked by ``receive``, in a task of its own.
    """

    __slots__ = ("_listener", "_request", "_task", "_timer", "gone")

    def __init__(self, request: Request) -> None:
        self.gone = False
        self._request = request
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if front := hook_of(self._request.scope):
            front.on_hangup(self._leave)
        else:
            self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER, self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        # As asyncio.timeout does it: a cancellation that is not ours, too, goes on.
        if self.gone and task is not None and task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise caller_left() from None

    def _listen(self) -> None:
        self._listener = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if self._task is not None and not self.gone:
            self.gone = True
            self._task.cancel()
