"""Where the body of a request ends."""

from __future__ import annotations

from embedserve.http.front.chunks import ChunkReader


class Framing:
    """Cuts one body from the bytes of a connection.

    Args:
        length: bytes of the body; None: it comes in chunks.
    """

    __slots__ = ("_chunks", "_left")

    def __init__(self, length: int | None) -> None:
        self._chunks = ChunkReader() if length is None else None
        self._left = length or 0

    @property
    def ended(self) -> bool:
        return self._left == 0 if self._chunks is None else self._chunks.done

    def feed(self, data: bytearray) -> bytes:
        """Takes what belongs to the body from the front of ``data``; the rest stays. Raises Refused (400)."""
        if self._chunks is not None:
            return self._chunks.feed(data)
        body = bytes(data[: self._left])
        del data[: len(body)]
        self._left -= len(body)
        return body
