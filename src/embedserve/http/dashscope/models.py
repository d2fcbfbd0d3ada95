"""GET /api/v1/models: the native list (``dashscope.Models``)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from embedserve.catalogue import MODELS
from embedserve.errors import EmbedserveError
from embedserve.http.context import authenticate, request_id_of
from embedserve.http.json import reply


def page_parameter(request: Request, name: str, default: int) -> int:
    """A page number or size. Raises EmbedserveError (400) for anything below 1."""
    value = request.query_params.get(name, str(default))
    if not value.isascii() or not value.isdigit() or len(value) > 6 or int(value) < 1:
        raise EmbedserveError(f"{name} is {value[:20]!r}, it should be an integer of at least 1.")
    return int(value)


async def list_models(request: Request) -> Response:
    await authenticate(request)
    number, size = page_parameter(request, "page_no", 1), page_parameter(request, "page_size", 10)
    wanted = request.query_params.get("model")
    cards = [card for card in MODELS.values() if wanted in (None, card.id)]
    output = {
        "total": len(cards),
        "page_no": number,
        "page_size": size,
        "models": [
            {"model": card.id, "name": card.id, "dimensions": card.dimensions, "max_tokens": card.max_tokens}
            for card in cards[(number - 1) * size : number * size]
        ],
    }
    return reply({"output": output, "request_id": request_id_of(request)})
