"""The chunked transfer coding (RFC 9112 7.1), read as strictly as it is written down."""

from __future__ import annotations

import re

from embedserve.http.front.head import has_stray_line_end
from embedserve.http.front.refusal import bad_request

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_MAX_LINE = 4096
"""Bytes of a size line with its extensions."""
_MAX_TRAILERS = 16 * 1024
_CHUNKS_A_TURN = 1000
"""So that a megabyte of tiny chunks holds up nobody else on the loop."""


class ChunkReader:
    """Takes bytes as they come; gives the body's. Trailers are read and dropped."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # of the chunk, its line end included
        self._last = False  # the chunk of size 0 came: trailers follow

    def feed(self, data: bytearray) -> bytes:
        """Takes what it understands from the front of ``data``, and leaves what belongs to the next request.

        After a thousand chunks it comes back for a breath, with ``data`` not used up: call it again.

        Raises:
            Refused: 400.
        """
        body: list[bytes] = []
        while data and not self.done and len(body) < _CHUNKS_A_TURN:
            if self._left:
                if self._left > 2:
                    piece = bytes(data[: self._left - 2])
                    body.append(piece)
                    del data[: len(piece)]
                    self._left -= len(piece)
                    continue
                if not b"\r\n".startswith(data[:2]):
                    raise bad_request("a chunk is longer than announced")
                if len(data) < 2:
                    break
                del data[:2]
                self._left = 0
            elif not self._read_line(data):
                break
        return b"".join(body)

    def _read_line(self, data: bytearray) -> bool:
        """A size line, or the trailers; False if it has not come to its end."""
        most = _MAX_TRAILERS if self._last else _MAX_LINE
        end = data.find(b"\r\n", 0, most)
        if end < 0:
            if len(data) >= most or has_stray_line_end(data[:most]):
                raise bad_request("a line between its chunks has no end")
            return False
        line = bytes(data[:end])
        if has_stray_line_end(line):
            raise bad_request("a line between its chunks does not end in CR LF")
        if self._last:
            return self._read_trailers(data)
        size = _SIZE_LINE.fullmatch(line)
        if size is None:
            raise bad_request("the size of a chunk cannot be read")
        del data[: end + 2]
        length = int(size[1], 16)
        self._last = length == 0
        self._left = length + 2 if length else 0
        return True

    def _read_trailers(self, data: bytearray) -> bool:
        if data.startswith(b"\r\n"):
            del data[:2]
            self.done = True
            return True
        end = data.find(b"\r\n\r\n", 0, _MAX_TRAILERS)
        if end < 0:
            if len(data) >= _MAX_TRAILERS:
                raise bad_request(f"more than {_MAX_TRAILERS} bytes of trailers")
            return False
        if has_stray_line_end(data[: end + 2]):
            raise bad_request("a trailer does not end in CR LF")
        del data[: end + 4]
        self.done = True
        return True
