"""POST /api/v1/services/embeddings/…"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from embedserve.catalogue import MULTIMODAL_MODELS
from embedserve.errors import WRONG_URL, EmbedserveError
from embedserve.http.body import read_json
from embedserve.http.context import authenticate, hold_of, request_id_of, service_of
from embedserve.http.dashscope.parsing import parse
from embedserve.http.dashscope.rendering import send_reply
from embedserve.http.dashscope.tasks import create_task
from embedserve.http.hangup import Hangup
from embedserve.http.note import note_of


async def create_embeddings(request: Request) -> Response:
    service = service_of(request)
    caller = await authenticate(request)
    hold = hold_of(request, caller)
    body = await read_json(request, service.settings.max_body_bytes, hold, service.run_long)
    if "x-dashscope-encryptionkey" in request.headers:
        raise EmbedserveError(
            "encrypted input is not supported by this server: unset enable_encryption and send plain text "
            "(the connection stays on your own machines)",
        )
    if request.headers.get("x-dashscope-async", "").lower() == "enable":
        return await create_task(request, caller, body)
    asked = parse(body, lenient=service.lenient)
    note_of(request.scope).ask(asked.model, len(asked.inputs))
    answer = await service.embed(caller, asked, request_id_of(request), hold=hold, waiting=Hangup(request))
    note_of(request.scope).tokens = answer.tokens
    return send_reply(answer, request_id_of(request))


async def create_multimodal(request: Request) -> Response:
    """The multimodal endpoint: known by name, nothing behind it."""
    service = service_of(request)
    caller = await authenticate(request)
    hold = hold_of(request, caller)
    body = await read_json(request, service.settings.max_body_bytes, hold, service.run_long)
    model = body.get("model")
    if isinstance(model, str) and model in MULTIMODAL_MODELS:
        raise EmbedserveError(
            "Model can not be found.", status=404, code="ModelNotFound", openai_code="model_not_found"
        )
    raise EmbedserveError(WRONG_URL)
