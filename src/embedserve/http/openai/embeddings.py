"""POST …/embeddings."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from embedserve.embedding.embedder import Embedding
from embedserve.http.body import read_json
from embedserve.http.context import authenticate, hold_of, request_id_of, service_of
from embedserve.http.hangup import Hangup
from embedserve.http.note import note_of
from embedserve.http.openai.parsing import parse, wants_nothing
from embedserve.http.openai.rendering import send_reply
from embedserve.service import EmbedReply


async def create_embeddings(request: Request) -> Response:
    service = service_of(request)
    caller = await authenticate(request)
    hold = hold_of(request, caller)
    body = await read_json(request, service.settings.max_body_bytes, hold, service.run_long)
    asked, encoding = parse(body, lenient=service.lenient)
    note_of(request.scope).ask(asked.model, len(asked.inputs))
    answer = await service.embed(caller, asked, request_id_of(request), hold=hold, waiting=Hangup(request))
    note_of(request.scope).tokens = answer.tokens
    if not service.lenient and wants_nothing(body):
        answer = EmbedReply(answer.model, [Embedding(None, None, 0) for _ in answer.rows], answer.tokens)
    return send_reply(answer, encoding, request_id_of(request))
