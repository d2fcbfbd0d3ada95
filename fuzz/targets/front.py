"""Bytes on a connection: whole replies with 200 or a refusal, the same in whatever pieces the bytes come."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fuzz.requests import cut, loop
from uvicorn import Config
from uvicorn.server import ServerState

from embedserve.http.front.gate import Gate
from embedserve.http.front.limits import Limits

_POST = b"POST /x?y HTTP/1.1\r\nHost: a\r\n"
SEEDS = [
    b"\x00" + _POST + b"Content-Length: 5\r\n\r\nhello",
    b"\x01" + _POST + b"Content-Length: 2\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nhi"
    b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    b"\x07" + _POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"\x02" + _POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x03GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"\x04" + _POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"\x00GET http://h/p HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\x16\x03\x01",
    b"\x00PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x05GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
    b"\x00HEAD /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\nGET /%ff HTTP/1.1\r\nHost: a\n\n",
]
LIMITS = Limits(head_bytes=2048, headers=16)
ALLOWED = {200, 400, 405, 408, 413, 414, 417, 431}
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n:]+: ?[^\r\n]*\r\n)*)\r\n")


class Wire(asyncio.Transport):
    """Takes what the protocol writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = self.aborted = self.ended = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        assert not self.ended, "written behind the end"
        if not self.closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


Called = list[tuple[str, str, bytes, bytes]]


async def converse(pieces: list[bytes]) -> tuple[list[tuple[int, str]], Called, Wire]:
    """What was replied (status, and the method asked) and what the application was called with."""
    called: Called = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        called.append((scope["method"], scope["path"], scope["query_string"], body))
        told = b"%d" % len(body)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(told))],
            }
        )
        await send({"type": "http.response.body", "body": told})

    config = Config(application, log_config=None)
    config.load()
    gate = Gate(LIMITS)
    wire = Wire()
    protocol: Any = gate.connect(
        config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()
    )
    protocol.connection_made(wire)
    waiting = list(pieces)
    idle = 0
    while idle < 8:
        if waiting and wire.reading and not wire.closing:
            protocol.data_received(waiting.pop(0))
            idle = 0
        before = len(wire.written), len(called)
        await asyncio.sleep(0)
        idle = 0 if (len(wire.written), len(called)) != before else idle + 1
    assert not waiting or wire.closing, "it stopped reading for ever"
    replies = read_replies(bytes(wire.written), [one[0] for one in called])
    assert len(gate) <= 1
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert len(gate) == 0, "the gate remembers a connection that is gone"
    return replies, called, wire


def read_replies(written: bytes, methods: list[str]) -> list[tuple[int, str]]:
    """Whole replies and nothing else."""
    replies = []
    answered = iter(methods)
    while written:
        head = _HEAD.match(written)
        assert head, f"no reply: {written[:80]!r}"
        status = int(head[1])
        written = written[head.end() :]
        if status == 100:
            continue
        assert status in ALLOWED, status
        method = next(answered, "") if status == 200 else ""
        length = re.search(rb"(?i)^content-length: (\d+)\r$", head[2], re.MULTILINE)
        assert length, "a reply without its length"
        size = 0 if method == "HEAD" else int(length[1])
        assert len(written) >= size, "half a reply"
        written = written[size:]
        replies.append((status, method))
        if status != 200:
            assert not written, "something behind a refusal"
    return replies


def check(data: bytes) -> None:
    sizes, stream = data[:1], data[1:]
    replies, called, _ = loop.run_until_complete(converse([stream] if stream else []))
    assert [status for status, _ in replies].count(200) == len(called), "called and not answered"
    again, called_again, _ = loop.run_until_complete(converse(cut(stream, sizes)))
    assert called_again == called, "other pieces, other requests"
    # How a request is refused may depend on how much of it was seen by then; whether it is may not.
    outcomes = [(status == 200, method) for status, method in replies]
    assert [(status == 200, method) for status, method in again] == outcomes, "other pieces, other replies"
