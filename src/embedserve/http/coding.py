"""Bodies that are compressed: refused from their headers, in words."""

from __future__ import annotations

from starlette.requests import Request

from embedserve.errors import EmbedserveError


def refuse_coded(request: Request) -> None:
    """Raises EmbedserveError (415) where ``Content-Encoding`` names anything.

    Not decoded, because a kilobyte of it may be a gigabyte: what a body may take is known before it is read.
    """
    for value in request.headers.getlist("content-encoding"):
        for coding in filter(None, map(str.strip, value.lower().split(","))):
            if coding != "identity":
                raise EmbedserveError(
                    f"Unsupported Media Type: the body comes with Content-Encoding {coding[:40]!r}; send it "
                    "as it is, without compression (replies may be compressed: EMBEDSERVE_GZIP).",
                    status=415,
                    code="UnsupportedMediaType",
                    openai_type="invalid_request_error",
                )
