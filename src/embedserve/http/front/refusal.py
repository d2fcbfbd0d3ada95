"""What the front says where there is no request to answer."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus

from embedserve.errors import EmbedserveError
from embedserve.http.openai.rendering import render_error

log = logging.getLogger("embedserve.front")

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Refused(EmbedserveError):
    """Told to whoever is at the other end, in the OpenAI form; the connection ends with it."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(
            message, status=status, code=code, openai_type="invalid_request_error", retry_after=retry_after
        )


def bad_request(why: str) -> Refused:
    return Refused(400, "BadRequest", f"This request cannot be read: {why}.")


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()


def render(refusal: Refused, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole reply; its id is in the log."""
    request_id = str(uuid.uuid4())
    log.info("refused %d %s %s", refusal.status, refusal.code, request_id)
    reply = render_error(refusal, request_id)
    headers = [*default_headers, *reply.raw_headers]
    headers += [(b"x-request-id", request_id.encode()), (b"connection", b"close")]
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([status_line(refusal.status), *lines, b"\r\n", bytes(reply.body)])
