"""One connection: bytes in, one request at a time, bytes out, and never for longer than its deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Scope
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from embedserve.http.front.exchange import CONTINUE, Exchange
from embedserve.http.front.framing import Framing
from embedserve.http.front.gate import Gate
from embedserve.http.front.head import HeadReader
from embedserve.http.front.hook import EXTENSION
from embedserve.http.front.limits import DRAIN_BYTES, LINGER_SECONDS
from embedserve.http.front.refusal import Refused, bad_request, render
from embedserve.http.front.tcp import reset, untaken, was_reset

HIGH_WATER = 64 * 1024
"""Bytes that wait for the handler, or behind the running request, before no more are read."""

LAST_CALL_SECONDS = 0.3
"""After SIGTERM: what had been sent by then has arrived by now."""

PROBE_SECONDS = 0.5
"""How long after the end of a client's sending half it is asked whether anybody is still there."""

_NO_BODY = Framing(0)


class Connection(asyncio.Protocol):
    """Made by :meth:`Gate.connect`; also the :class:`~embedserve.http.front.hook.Hook` of its requests.

    Requests on a connection are answered one after the other; what is sent ahead waits unread. Everything
    that takes time has a ``deadline`` (loop time), at which the gate calls :meth:`expire`.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.deadline = math.inf
        self.held = 0
        self.clogged = False
        """The client does not take its reply as fast as it comes."""
        self._gate = gate
        self._limits = gate.limits
        self._app: ASGIApp = config.loaded_app
        self._root_path = config.root_path
        self._state = server_state
        self._app_state = app_state
        self._extensions = {EXTENSION: self}
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._input = bytearray()
        self._heads = HeadReader(gate.limits.head_bytes, gate.limits.headers)
        self._exchange: Exchange | None = None
        self._framing = _NO_BODY  # of the request that was begun last
        self._eof = self._closing = self._paused = self._draining = self._probed = self._vouched = False
        self._window = 0  # bytes in since the window of the rate began
        self._unwanted = 0
        self._sent = self._taken = 0
        self._drained: asyncio.Event | None = None

    # -- what uvicorn and the loop call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        self._scheme = "https" if is_ssl(transport) else "http"
        self._wait(self._limits.first_byte)
        try:
            self._gate.admit(self)
        except Refused as refusal:
            self._refuse(refusal)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._drop(len(data))
            return
        self._window += len(data)
        self._input += data
        self._advance()

    def eof_received(self) -> bool:
        """True: what was sent whole is answered before the connection ends."""
        self._eof = True
        exchange = self._exchange
        if self._closing or exchange is None:
            if self._input and not self._closing:
                self._refuse(bad_request("it ends in the middle of its head"))
                return True
            return False
        if not exchange.whole:
            self._fail(bad_request("it ends in the middle of its body"))
        elif not self.clogged:
            self._wait(PROBE_SECONDS)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._state.connections.discard(self)
        self._gate.forget(self)
        self._input.clear()
        self._hold()
        self.deadline = math.inf
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.hang_up()

    def pause_writing(self) -> None:
        self.clogged = True
        self._taken = self._sent - untaken(self._transport)
        self._wait(self._limits.reply_stall)

    def resume_writing(self) -> None:
        self.clogged = False
        if self._drained is not None:
            self._drained.set()

    def shutdown(self) -> None:
        """No request after those that were sent by now."""
        self._draining = True
        if self._exchange is None and not self._closing:
            self._wait(LAST_CALL_SECONDS)

    # -- what handlers may call: Hook

    def vouch(self) -> None:
        self._vouched = True
        self._gate.vouch(self)

    def on_hangup(self, callback: Callable[[], None]) -> None:
        if self._exchange is not None:
            self._exchange.on_hangup(callback)

    # -- what the gate calls

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return self._exchange is None and not self._input

    def abort(self) -> None:
        """End it now."""
        self._closing = True
        reset(self._transport)

    def expire(self, now: float) -> None:
        """The deadline is over: of whatever it is that was waited for."""
        exchange = self._exchange
        self.deadline = math.inf
        if self._closing:
            self._transport.abort()
        elif self.clogged:
            self._judge_reader()
        elif not self._framing.ended:
            self._judge_writer(exchange)
        elif exchange is not None:
            self._probe(exchange)
        elif self._input:
            self._gate.ended["head"] += 1
            told = f"The headers were not complete after {self._limits.head:g} seconds."
            if self._draining:
                self._refuse(
                    Refused(503, "ServerClosing", "This server is closing; try again.", retry_after=1)
                )
            else:
                self._refuse(Refused(408, "RequestTimeout", told))
        else:
            self._close()

    # -- what the exchange calls

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._state.default_headers

    def write(self, data: bytes) -> None:
        self._sent += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Until the client took most of what was written, or is gone."""
        if self._drained is None:
            self._drained = asyncio.Event()
        self._drained.clear()
        while self.clogged and not self._transport.is_closing():
            await self._drained.wait()
            self._drained.clear()

    def want_body(self) -> None:
        """The handler took what there was."""
        if self._input:
            self.loop.call_soon(self._advance)
        else:
            self._hold()
            self._read_on()

    def goes_on(self, exchange: Exchange) -> bool:
        """Can another request follow the reply that begins now?"""
        if exchange.waits and not exchange.whole:
            return False  # nobody knows whether the body will come
        return not (self._eof or self._draining) or bool(self._input)

    def finish(self, exchange: Exchange) -> None:
        """The reply is out."""
        self._state.total_requests += 1
        if self._closing or self._transport.is_closing():
            return
        self._exchange = None
        self._probed = False
        if not exchange.keep_alive:
            self._close()
            return
        self._unwanted = 0
        if self._draining:
            self._wait(LAST_CALL_SECONDS)
        else:
            self._wait(self._limits.keep_alive if self._framing.ended else self._limits.body_stall)
        self._advance()
        if self._eof and self.idle and not self._closing:
            self._close()

    # -- bytes in

    def _advance(self) -> None:
        """As far as the bytes that are here go."""
        try:
            while self._input and not self._closing:
                if not self._framing.ended:
                    if not self._feed_body():
                        break
                elif self._exchange is not None or not self._begin():
                    break
        except Refused as refusal:
            self._fail(refusal)
        if self._closing:
            return
        self._hold()
        exchange = self._exchange
        if exchange is None:
            full = False
        elif exchange.whole:
            full = len(self._input) > HIGH_WATER
        else:
            full = exchange.size > self._most_waiting
        if full:
            self._stop_reading()
        elif self._paused:
            self._read_on()

    def _begin(self) -> bool:
        """Start the next request, if its head is here."""
        begun = self._heads.begun
        head = self._heads.take(self._input)
        if head is None:
            if self._heads.begun and not begun:
                self._wait(self._limits.head)
            return False
        raw_path, _, query = head.path.partition(b"?")
        try:
            path = unquote(raw_path.decode("ascii"))
        except UnicodeDecodeError:
            raise bad_request("its path holds bytes that should be escaped") from None
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": head.method,
            "root_path": self._root_path,
            "path": self._root_path + path,
            "raw_path": self._root_path.encode() + raw_path,
            "query_string": query,
            "headers": head.headers,
            "state": self._app_state.copy(),
            "extensions": self._extensions,
        }
        self._framing = Framing(head.length)
        exchange = self._exchange = Exchange(self, head)
        if self._framing.ended:
            self.deadline = math.inf
        else:
            self._window = len(self._input)
            self._wait(self._limits.body_stall)
        task = self.loop.create_task(exchange.run(self._app, scope))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        return True

    def _feed_body(self) -> bool:
        """Hand what is here of the body to the handler; False if he has enough for now."""
        exchange, data = self._exchange, self._input
        if exchange is not None and exchange.size > self._most_waiting:
            return False
        before = len(data)
        body = self._framing.feed(data)
        if exchange is None:
            self._drop(len(body))
        else:
            exchange.feed(body)
        if self._framing.ended:
            if exchange is None:
                self._wait(self._limits.keep_alive)
            else:
                self.deadline = math.inf
                exchange.end_body()
        elif data and len(data) < before:
            self.loop.call_soon(self._advance)
            return False
        return len(data) < before

    @property
    def _most_waiting(self) -> int:
        """Bytes of a body that may wait for its handler: none before he has seen a key."""
        return HIGH_WATER if self._vouched else 0

    def _drop(self, count: int) -> None:
        """Bytes that nobody wants; they are read so that their sender comes to read his reply."""
        self._unwanted += count
        if self._unwanted > DRAIN_BYTES:
            self.abort()

    def _hold(self) -> None:
        held = len(self._input)
        if self._exchange is not None and not self._vouched:
            held += self._exchange.size
        if held != self.held:
            more, self.held = held - self.held, held
            self._gate.hold(more)

    def _stop_reading(self) -> None:
        if not self._paused and not self._eof:
            self._paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
            if not self._framing.ended:
                self._window = 0
                self._wait(self._limits.body_stall)

    # -- deadlines

    def _wait(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds

    def _judge_writer(self, exchange: Exchange | None) -> None:
        """A body came for a while: fast enough?"""
        limits = self._limits
        if not self._paused and self._window < limits.rate * limits.body_stall:
            self._gate.ended["body"] += 1
            told = (
                f"{self._window} bytes of the body came in {limits.body_stall:g} seconds; "
                f"at least {limits.rate} a second should (EMBEDSERVE_MIN_BYTES_PER_SECOND)."
            )
            self._fail(Refused(408, "RequestTimeout", told))
        else:
            self._window = 0
            self._wait(limits.body_stall)

    def _judge_reader(self) -> None:
        """A reply went out for a while: does anybody read it?"""
        taken = self._sent - untaken(self._transport)
        if taken - self._taken < self._limits.rate * self._limits.reply_stall:
            self._gate.ended["reply"] += 1
            self.abort()
        else:
            self._taken = taken
            self._wait(self._limits.reply_stall)

    def _probe(self, exchange: Exchange) -> None:
        """The client's sending half is closed: does he still wait, or is he gone altogether?

        Both look the same until something is sent. ``100 Continue`` is for every client of HTTP/1.1 to skip;
        a system whose program is gone refuses it.
        """
        if not self._eof or exchange.began or self._scheme == "https" or exchange.head.version != "1.1":
            return
        if not self._probed:
            self._probed = True
            self.write(CONTINUE)
        elif was_reset(self._transport):
            self.abort()
            return
        self._wait(0)

    # -- ends

    def _fail(self, refusal: Refused) -> None:
        """Nothing more can be read here. Whoever was being answered hears it unless his reply has begun."""
        exchange = self._exchange
        if exchange is None and not self._framing.ended:
            self._close()  # of a request that has had its reply
        elif exchange is None:
            self._refuse(refusal)
        elif exchange.began:
            self.abort()
        else:
            self._exchange = None
            self._refuse(refusal)
            exchange.hang_up()

    def _refuse(self, refusal: Refused) -> None:
        """Tell it and end the connection."""
        self.write(render(refusal, self.default_headers))
        self._close()

    def _close(self) -> None:
        """Say that nothing more comes, and read on for a while: a reset would overtake what was told."""
        self._closing = True
        self._input.clear()
        self._hold()
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()
            self._paused = False
            self._transport.resume_reading()
        self._unwanted = 0
        self._wait(LINGER_SECONDS)
