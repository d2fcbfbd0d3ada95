"""Gives every request an id, counts it, and times it."""

from __future__ import annotations

import logging
import time
import uuid

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("embedserve.access")


def route_of(scope: Scope) -> str:
    """The handler's name, not the caller's path: bounded labels, and nothing private in them."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return "none"
    return f"{endpoint.__module__.split('.')[-2]}.{endpoint.__name__}"


class ObserveMiddleware:
    """Outermost: whatever happens inside, the reply carries ``x-request-id`` and is counted."""

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
        request_id = scope["embedserve.request_id"] = str(uuid.uuid4())
        started, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            route = route_of(scope)
            seconds = time.perf_counter() - started
            self.requests.labels(route, str(status)).inc()
            self.seconds.labels(route).observe(seconds)
            log.info("%s %s %d %.1f ms %s", scope["method"], route, status, seconds * 1000, request_id)
