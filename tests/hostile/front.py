"""What a server said on a connection, reply by reply."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from hostile.raw import connect
from serving import KEY, Server

Segments = Literal["whole", "halves", "bytes"]
TEXT = b'{"model":"text-embedding-v4","input":"one two","dimensions":64}'


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def cut(data: bytes, segments: Segments) -> Iterator[bytes]:
    if segments == "bytes":
        yield from (data[i : i + 1] for i in range(len(data)))
    elif segments == "halves":
        yield data[: len(data) // 2]
        yield data[len(data) // 2 :]
    else:
        yield data


def hear(connection: socket.socket, seconds: float = 30) -> bytes:
    """Everything up to the end of the connection, which must come, and not by a reset."""
    connection.settimeout(seconds)
    heard = bytearray()
    while piece := connection.recv(65_536):
        heard += piece
    return bytes(heard)


def talk(
    server: Server, parts: Iterable[bytes], *, pause: float = 0.0, half_close: bool = False
) -> list[Reply]:
    """Send, listen to the end, close."""
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(BrokenPipeError, ConnectionResetError):  # refused and closed before the last byte
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return read_replies(hear(connection))


def read_replies(heard: bytes) -> list[Reply]:
    """Final replies; what stands between them is an error of ours."""
    replies = []
    while heard:
        head, found, heard = heard.partition(b"\r\n\r\n")
        assert found, head
        line, *lines = head.decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", line)
        assert status, line
        if status[1].startswith("1"):
            assert not lines
            continue
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers["content-length"])
        assert len(heard) >= size
        replies.append(Reply(int(status[1]), headers, heard[:size]))
        heard = heard[size:]
    return replies


def request(
    *headers: str,
    body: bytes = TEXT,
    path: str = "/v1/embeddings",
    framing: str | None = None,
    version: str = "1.1",
) -> bytes:
    """A POST of one text that is answered with 200, with further header lines or another framing."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {KEY}"]
    lines += [framing or f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(body: bytes, *, size: int = 7, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    coded = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join(coded) + b"0\r\n" + trailers + b"\r\n"
