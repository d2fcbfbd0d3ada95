"""Gives every request an id, counts it, times it, and writes its line in the access log."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedserve.http.errors import tell_unforeseen
from embedserve.http.note import note_of
from embedserve.http.routing import handler_of, template_of

log = logging.getLogger("embedserve.access")

METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
QUIET = frozenset(("/health", "/ready", "/metrics"))
"""Asked every few seconds by machines: logged at level debug, unless the answer is a refusal."""
LEFT = 499
"""What a request counts as whose caller hung up before the last byte of his reply, whatever had begun."""


class ObserveMiddleware:
    """Outermost: whatever happens inside, the reply carries one ``x-request-id``, ours, and is counted.

    An id that the caller or a proxy sent is neither sent back nor logged: it could be a text or a key.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        self.requests = Counter(
            "embedserve_requests_total", "Requests answered", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "embedserve_request_seconds",
            "Time from the request's first byte to the reply's last",
            ["route"],
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["embedserve.request_id"] = str(uuid.uuid4())
        exchange = _Exchange(scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.left = True
        except Exception as error:
            await exchange.fail(error)
        finally:
            self._tell(scope, exchange)

    def _tell(self, scope: Scope, exchange: _Exchange) -> None:
        status, seconds = exchange.outcome, time.perf_counter() - exchange.started
        handler = handler_of(scope)
        self.requests.labels(handler, str(status)).inc()
        self.seconds.labels(handler).observe(seconds)
        route = template_of(scope)
        level = logging.DEBUG if route in QUIET and status < 400 else logging.INFO
        if log.isEnabledFor(level):
            method = scope["method"] if scope["method"] in METHODS else "other"
            log.log(
                level,
                "%s %s %d",
                method,
                route,
                status,
                extra={"access": exchange.facts(method, route, status, seconds)},
            )


class _Exchange:
    """One request and its reply, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = time.perf_counter()
        self.left = False
        self._scope, self._receive, self._send = scope, receive, send
        self._status = 0
        self._done = False
        self._received = self._sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
        elif not self._done:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._scope["embedserve.request_id"]
        elif message["type"] == "http.response.body":
            self._sent += len(message.get("body", b""))
            self._done = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        """What came through everything: the caller hears of it if he has heard nothing yet.

        Starlette raises again what its handler has told already; then there is nothing left to do.
        """
        if self._done:
            return
        response = await tell_unforeseen(Request(self._scope), error)
        if not self._status:
            await response(self._scope, self._receive, self.send)

    @property
    def outcome(self) -> int:
        return LEFT if self.left and not self._done else self._status or 500

    def facts(self, method: str, route: str, status: int, seconds: float) -> dict[str, Any]:
        note = note_of(self._scope)
        facts = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "key": note.key,
            "model": note.model,
            "rows": note.rows,
            "tokens": note.tokens,
            "in": self._received,
            "out": self._sent,
            "id": self._scope["embedserve.request_id"],
        }
        return {name: value for name, value in facts.items() if value is not None}
