"""Replies and errors in OpenAI mode; key order as the original's."""

from __future__ import annotations

import base64
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from starlette.responses import Response

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.embedder import Embedding
from embedserve.errors import EmbedserveError
from embedserve.http.context import cut_headers
from embedserve.http.json import JSONReply, RowsReply, error_headers, is_large, reply
from embedserve.http.openai.parsing import Encoding
from embedserve.http.sparse import sparse_entries
from embedserve.service import EmbedReply


def encode_vector(vector: Floats, encoding: Encoding) -> Floats | str:
    """Numbers as they are, or little-endian float32 in base64."""
    if encoding == "float":
        return vector
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def render_row(row: Embedding | EmbedserveError, index: int, encoding: Encoding) -> dict[str, Any]:
    nothing = np.empty(0, np.float32)
    if isinstance(row, EmbedserveError):
        error = {"message": row.openai_message, "code": row.openai_code}
        return {
            "embedding": encode_vector(nothing, encoding),
            "index": index,
            "object": "embedding",
            "error": error,
        }
    dense = nothing if row.dense is None else row.dense
    rendered: dict[str, Any] = {"embedding": encode_vector(dense, encoding)}
    rendered |= {"index": index, "object": "embedding"}
    if row.sparse is not None:
        rendered["sparse_embedding"] = sparse_entries(row.sparse)
    return rendered


def render_reply(answer: EmbedReply, encoding: Encoding, request_id: str) -> dict[str, Any]:
    return {
        "data": [render_row(row, i, encoding) for i, row in enumerate(answer.rows)],
        "model": answer.model,
        "object": "list",
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
        "id": request_id,
    }


def send_reply(answer: EmbedReply, encoding: Encoding, request_id: str) -> Response:
    """:func:`render_reply` as a response, in pieces if it is large."""
    headers = cut_headers(answer)
    if not is_large(answer.rows):
        return reply(render_reply(answer, encoding, request_id), headers=headers)
    shell = render_reply(replace(answer, rows=()), encoding, request_id)
    return RowsReply(shell, answer.rows, partial(render_row, encoding=encoding), headers)


def error_body(error: EmbedserveError, request_id: str) -> dict[str, Any]:
    """Engine errors carry ``id`` beside ``request_id``, gateway errors do not (protocol notes 3.3)."""
    body: dict[str, Any] = {
        "error": {
            "message": error.openai_message,
            "type": error.openai_type,
            "param": error.param,
            "code": error.openai_code or None,
        }
    }
    if error.engine:
        body["id"] = request_id
    body["request_id"] = request_id
    return body


def render_error(error: EmbedserveError, request_id: str) -> JSONReply:
    return reply(error_body(error, request_id), error.openai_status, error_headers(error))
