"""GET /health, /ready and /metrics."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from embedserve import __version__
from embedserve.http.context import service_of
from embedserve.http.json import reply
from embedserve.http.operator.access import is_operator, require_operator

PROOF_SECONDS = 5.0


async def health(request: Request) -> Response:
    """200 while the process answers at all."""
    return reply({"status": "ok", "version": __version__})


async def ready(request: Request) -> Response:
    """200 if a forward pass worked in the last seconds and every configured model can be served, else 503.

    Strangers hear which model cannot be; why, with paths and addresses in it, the log and the operator.
    """
    service = service_of(request)
    try:
        async with asyncio.timeout(PROOF_SECONDS):
            await service.prove()
    except TimeoutError:
        return _not_ready(f"no vector came within {PROOF_SECONDS:g} seconds")
    except Exception as error:
        return _not_ready(str(error) if is_operator(request) else "the engine gives no vectors")
    service.engines.look()
    if failures := service.engines.failures:
        told = (
            [f"{name}: {reason}" for name, reason in failures.items()] if is_operator(request) else failures
        )
        return _not_ready("; ".join(told) + ("" if is_operator(request) else " cannot be served"))
    return reply({"status": "ready", "backbone": service.engine.embedder.backbone.name})


def _not_ready(reason: str) -> Response:
    return reply({"status": "not ready", "reason": reason}, 503, {"retry-after": "1"})


async def metrics(request: Request) -> Response:
    """Prometheus text format, for the operator."""
    require_operator(request)
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
