"""Replies and errors of the native API; key order as the original's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.responses import Response

from embedserve.embedding.embedder import Embedding
from embedserve.errors import EmbedserveError
from embedserve.http.context import cut_headers
from embedserve.http.json import JSONReply, RowsReply, error_headers, is_large, reply
from embedserve.http.sparse import sparse_entries
from embedserve.service import EmbedReply


def render_row(row: Embedding | EmbedserveError, index: int) -> dict[str, Any]:
    if isinstance(row, EmbedserveError):
        return {"embedding": [], "text_index": index, "error": {"code": row.code, "message": row.message}}
    rendered: dict[str, Any] = {}
    if row.sparse is not None:
        rendered["sparse_embedding"] = sparse_entries(row.sparse)
    if row.dense is not None:
        rendered["embedding"] = row.dense
    rendered["text_index"] = index
    return rendered


def render_reply(answer: EmbedReply, request_id: str) -> dict[str, Any]:
    return {
        "output": {"embeddings": [render_row(row, i) for i, row in enumerate(answer.rows)]},
        "usage": {"total_tokens": answer.tokens},
        "request_id": request_id,
    }


def send_reply(answer: EmbedReply, request_id: str) -> Response:
    """:func:`render_reply` as a response, in pieces if it is large."""
    headers = cut_headers(answer)
    if not is_large(answer.rows):
        return reply(render_reply(answer, request_id), headers=headers)
    return RowsReply(render_reply(replace(answer, rows=()), request_id), answer.rows, render_row, headers)


def render_error(error: EmbedserveError, request_id: str) -> JSONReply:
    body = {"code": error.code, "message": error.message, "request_id": request_id}
    return reply(body, error.status, error_headers(error))
