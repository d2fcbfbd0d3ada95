"""GET /health, /ready and /metrics."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from embedserve import __version__
from embedserve.http.context import service_of
from embedserve.http.json import reply
from embedserve.http.operator.access import require_operator


async def health(request: Request) -> Response:
    """200 while the process answers at all."""
    return reply({"status": "ok", "version": __version__})


async def ready(request: Request) -> Response:
    """200 if a forward pass worked just now or in the last seconds, 503 otherwise."""
    service = service_of(request)
    try:
        await service.prove()
    except Exception as error:
        return reply({"status": "not ready", "reason": str(error)}, 503, {"retry-after": "1"})
    return reply({"status": "ready", "backbone": service.engine.embedder.backbone.name})


async def metrics(request: Request) -> Response:
    """Prometheus text format, for the operator."""
    require_operator(request)
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
