"""GET …/models and …/models/{id}."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from embedserve.catalogue import MODELS, ModelCard, find_model
from embedserve.http.context import authenticate, service_of
from embedserve.http.json import reply
from embedserve.service import EmbeddingService


def describe(card: ModelCard, service: EmbeddingService) -> dict[str, Any]:
    """A model in the OpenAI list's form, with what serves it under ``embedserve``."""
    return {
        "id": card.id,
        "object": "model",
        "created": 0,  # the original's date is not documented
        "owned_by": "embedserve",
        "embedserve": {
            "dimensions": card.dimensions,
            "default_dimension": card.default_dimension,
            "max_rows": service.max_rows(card),
            "max_tokens": card.max_tokens,
            "sparse": card.sparse,
            "instruct": card.instruct,
            **service.describe(card.id),
        },
    }


async def list_models(request: Request) -> Response:
    await authenticate(request)
    service = service_of(request)
    return reply({"object": "list", "data": [describe(card, service) for card in MODELS.values()]})


async def get_model(request: Request) -> Response:
    await authenticate(request)
    return reply(describe(find_model(request.path_params["id"]), service_of(request)))
