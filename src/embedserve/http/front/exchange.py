"""One request and its reply: the two ends of ASGI's pipe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Scope

from embedserve.http.front.head import Head
from embedserve.http.front.refusal import status_line

if TYPE_CHECKING:
    from embedserve.http.front.connection import Connection

log = logging.getLogger("embedserve.front")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = (204, 304)


class Exchange:
    """Lives from the end of the head to the end of the handler.

    Attributes:
        whole: the body came to its end.
        told: the reply was handed over whole, or nobody is there to take it.
    """

    __slots__ = (
        "_arrived",
        "_began",
        "_chunked",
        "_connection",
        "_ended_body",
        "_hangup",
        "_left",
        "_pieces",
        "_start",
        "gone",
        "head",
        "keep_alive",
        "size",
        "told",
        "waits",
        "whole",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self.head = head
        self.keep_alive = head.keep_alive
        self.waits = head.waits
        self.whole = head.length == 0
        self.gone = False
        self.told = False
        self.size = 0  # bytes of body that arrived and were not taken
        self._connection = connection
        self._pieces: list[bytes] = []
        self._ended_body = False
        self._arrived: asyncio.Event | None = None
        self._hangup: list[Callable[[], None]] = []
        self._start: Message | None = None
        self._began = False
        self._chunked = False
        self._left: int | None = None

    @property
    def began(self) -> bool:
        """Bytes of the reply are on their way."""
        return self._began

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
            if not self.told and not self.gone:
                log.error("the application returned without a whole reply")
                await self._break_off()
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except BaseException as error:
            if not self.told and not self.gone:  # else the application told the caller, and its log, itself
                log.error("the application failed", exc_info=error)
                await self._break_off()
            if not isinstance(error, Exception):
                raise

    async def receive(self) -> Message:
        """ASGI's receive: the body as it comes, then ``http.disconnect`` as soon as the client is gone."""
        while True:
            if self._pieces and not self.told:
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                self.size = 0
                self._ended_body = self.whole
                self._connection.want_body()
                return {"type": "http.request", "body": body, "more_body": not self.whole}
            if self.gone or self.told:
                return {"type": "http.disconnect"}
            if self.whole and not self._ended_body:
                self._ended_body = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if not self.whole:
                if self.waits and not self._began:
                    self.waits = False
                    self._connection.write(CONTINUE)
                self._connection.want_body()
            if self._arrived is None:
                self._arrived = asyncio.Event()
            self._arrived.clear()
            await self._arrived.wait()

    def feed(self, data: bytes) -> None:
        """A piece of the body arrived."""
        self.waits = False
        if data and not self.told:
            self._pieces.append(data)
            self.size += len(data)
            self._wake()

    def end_body(self) -> None:
        self.whole = True
        self._wake()

    def on_hangup(self, callback: Callable[[], None]) -> None:
        if self.gone and not self.told:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._hangup.append(callback)

    def hang_up(self) -> None:
        """The client is gone."""
        if not self.gone:
            self.gone = True
            callbacks, self._hangup = self._hangup, []
            if not self.told:
                for callback in callbacks:
                    callback()
            self._wake()

    async def send(self, message: Message) -> None:
        """ASGI's send; returns when the client has taken most of what was sent so far."""
        if self.gone:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.told = True
            return
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            self._start = message
            return
        if kind != "http.response.body" or self._start is None or self.told:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        connection = self._connection
        if not self._began:
            self._began = True
            head = self._render_start(self._start, len(body), more)
        else:
            head = b""
        if self.head.method == "HEAD" or self._start["status"] in _BODILESS:
            body = b""
            self._left = None
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the reply is not as long as its Content-Length")
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if len(body) < 65_536:
            connection.write(head + body)
        else:
            connection.write(head)
            connection.write(body)
        if connection.clogged:
            await connection.drain()
        if not more and not self.told:
            self.told = True
            self._hangup.clear()
            self._pieces.clear()
            self.size = 0
            self._wake()
            connection.finish(self)

    def _render_start(self, start: Message, length: int, more: bool) -> bytes:
        status: int = start["status"]
        sized = False
        lines = [status_line(status)]
        for name, value in (*self._connection.default_headers, *start.get("headers", ())):
            name = name.lower()
            if name == b"content-length":
                sized = True
                self._left = int(value)
            elif name == b"transfer-encoding":
                continue  # ours to choose
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not sized and status >= 200 and status not in _BODILESS:
            if not more:
                self._left = length
                lines.append(b"content-length: %d\r\n" % length)
            elif self.head.version == "1.1":
                self._chunked = self.head.method != "HEAD"
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self._connection.goes_on(self):
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        told = b"".join(lines)
        if told.count(b"\n") != len(lines) or told.count(b"\r") != len(lines):
            raise RuntimeError("a header of the reply holds a line end")
        return told + b"\r\n"

    async def _break_off(self) -> None:
        """No whole reply will come: say so if there is still time, else let nobody take half for a whole."""
        if self._began or self.gone:
            self._connection.abort()
            return
        self._start = None
        self.keep_alive = False
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
