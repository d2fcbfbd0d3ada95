"""Callers who are silent, slow, endless or many cost the others nothing."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hostile.front import TEXT, hear, read_replies, request, talk
from hostile.raw import connect
from light_server import LightServer
from serving import KEY, Server

IMPATIENT = {
    "EMBEDSERVE_FIRST_BYTE_SECONDS": "1",
    "EMBEDSERVE_HEADER_SECONDS": "1",
    "EMBEDSERVE_BODY_STALL_SECONDS": "1",
    "EMBEDSERVE_REPLY_STALL_SECONDS": "1",
    "EMBEDSERVE_KEEP_ALIVE_SECONDS": "1",
    "EMBEDSERVE_MIN_BYTES_PER_SECOND": "1000",
}
HALF = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
BODY = HALF + b"Content-Length: 500000\r\n\r\n"


class FewDescriptors(LightServer):
    """Under ``ulimit -n 256``."""

    program = (
        "-c",
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        f"sys.argv[0] = {LightServer.program[0]!r}\n"
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')",
    )


def resident(server: Server) -> int:
    """MiB"""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


@pytest.fixture(scope="module")
def impatient() -> Iterator[LightServer]:
    with LightServer(environment=IMPATIENT) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    ("begun", "drip", "statuses"),
    [
        (b"", b"", []),
        (b"", b"\r\n", []),
        (b"P", b"", [408]),
        (HALF, b"", [408]),
        (HALF, b"X: y\r\n", [408]),
        (BODY, b"", [408]),
        (BODY, b" ", [408]),
        (BODY.replace(b"Content-Length: 500000", b"Transfer-Encoding: chunked"), b"1\r\n \r\n", [408]),
        (BODY.replace(KEY.encode(), b"sk-nobody"), b" ", [401]),
        (request(), b"", [200]),
        (request(), b"\r\n", [200]),
        (request() + HALF, b"X: y\r\n", [200, 408]),
    ],
    ids=[
        "nothing",
        "empty lines",
        "one byte",
        "half a head",
        "a head in drops",
        "a body that stops",
        "a body in drops",
        "chunks in drops",
        "a body that nobody wants",
        "no second request",
        "empty lines after a request",
        "half a second request",
    ],
)
def test_who_says_nothing_for_long_is_let_go(
    impatient: LightServer, begun: bytes, drip: bytes, statuses: list[int]
) -> None:
    with connect(impatient) as connection:
        connection.sendall(begun)
        connection.settimeout(0.1)
        heard = b""
        until = time.monotonic() + 20
        while True:
            assert time.monotonic() < until
            try:
                piece = connection.recv(65_536)
                if not piece:
                    break
                heard += piece
            except TimeoutError:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(drip)
            except ConnectionResetError:  # it went on sending after it was told
                break
    assert [reply.status for reply in read_replies(heard)] == statuses


def test_who_is_slow_but_goes_on_is_served(impatient: LightServer) -> None:
    body = TEXT + b" " * 20_000
    slowly = [body[i : i + 1500] for i in range(0, len(body), 1500)]
    sent = request("Connection: close", body=body)
    (reply,) = talk(impatient, [sent[: -len(body)], *slowly], pause=0.2)
    assert reply.status == 200


def download(server: Server, megabytes: int) -> socket.socket:
    """A connection on which so much is about to come."""
    content = b'{"custom_id": "a"}\n' * (megabytes * 2**20 // 19)
    uploaded = httpx.post(
        f"{server.url}/v1/files",
        headers=server.headers,
        files={"file": ("lines.jsonl", content)},
        data={"purpose": "batch"},
        timeout=60,
    )
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    path = f"/v1/files/{uploaded.json()['id']}/content"
    lines = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    connection.sendall(lines.encode())
    return connection


def test_who_does_not_read_his_reply_is_let_go(impatient: LightServer) -> None:
    with download(impatient, 12) as connection:
        time.sleep(4)
        with pytest.raises(ConnectionResetError):
            hear(connection)


def test_who_reads_his_reply_slowly_gets_it(impatient: LightServer) -> None:
    with download(impatient, 6) as connection:
        heard = bytearray(connection.recv(20_000))
        for _ in range(40):
            time.sleep(0.1)
            heard += connection.recv(20_000)
        heard += hear(connection)
    (reply,) = read_replies(bytes(heard))
    assert reply.status == 200
    assert len(reply.body) == 6 * 2**20 // 19 * 19


@pytest.fixture(scope="module")
def server() -> Iterator[LightServer]:
    with LightServer() as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    ("begun", "more", "status"),
    [
        (b"GET /", b"a" * 1000, 414),
        (b"GET /", b"a" * 70_000, 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 200, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 1000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX", b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"", 431),
        (b"GET /" + b"a" * 65_000 + b" HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"", 431),
    ],
)
def test_heads_have_an_end(server: LightServer, begun: bytes, more: bytes, status: int) -> None:
    with connect(server) as connection:
        connection.sendall(begun)
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while more and sent < 100_000:
                connection.sendall(more)
                sent += len(more)
        (reply,) = read_replies(hear(connection))
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert "65536 bytes" in reply.json["error"]["message"] or "128 headers" in reply.json["error"]["message"]


def test_a_body_that_nobody_wants_does_not_drown_the_reply(server: LightServer) -> None:
    """The whole of it is sent before the reply is read, as most clients do."""
    body = b" " * 20_000_000
    sent = request("Connection: close", body=body).replace(KEY.encode(), b"sk-nobody")
    (reply,) = talk(server, [sent])
    assert reply.status == 401
    (reply,) = talk(server, [request("Connection: close", body=b" " * 40_000_000)])
    assert reply.status == 400
    assert "33554432" in reply.json["error"]["message"]


def test_half_heads_of_many_stay_within_the_memory_promise(server: LightServer) -> None:
    before = resident(server)
    with contextlib.ExitStack() as stack:
        for _ in range(900):
            connection = stack.enter_context(connect(server))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(HALF + b"X: " + b"a" * 64_000)
        assert server.openai({"model": "text-embedding-v4", "input": "one two"}).status_code == 200
        assert resident(server) < before + 64


def test_many_who_show_no_key_do_not_keep_out_those_who_do() -> None:
    with FewDescriptors() as server, contextlib.ExitStack() as stack:
        known = []
        for _ in range(5):
            connection = stack.enter_context(connect(server))
            connection.sendall(request())
            known.append(connection)
        for i in range(600):
            stranger = stack.enter_context(connect(server))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wrong = BODY.replace(KEY.encode(), b"sk-nobody") + b"{"
                stranger.sendall((b"", HALF, wrong)[i % 3])
            if i % 20 == 0:
                reply = httpx.post(f"{server.url}/v1/embeddings", content=TEXT, headers=server.headers)
                assert reply.status_code == 200
                upload = {"file": ("a.jsonl", b"{}\n"), "purpose": (None, "batch")}
                stored = httpx.post(f"{server.url}/v1/files", files=upload, headers=server.headers)
                assert stored.status_code == 200
        for connection in known:
            connection.sendall(request("Connection: close"))
            assert [reply.status for reply in read_replies(hear(connection))] == [200, 200]
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 256
        assert "Traceback" not in server.log


def test_when_all_have_keys_the_idle_make_room_and_the_busy_do_not() -> None:
    slow = b'{"model":"text-embedding-v4","input":"%s"}' % (b"word " * 4000)
    environment = {"EMBEDSERVE_MAX_CONNECTIONS": "4", "SECONDS_PER_TOKEN": "0.006"}
    environment["EMBEDSERVE_MAX_WAIT_SECONDS"] = "600"
    with LightServer(environment=environment) as server, contextlib.ExitStack() as stack:
        idle = stack.enter_context(connect(server))
        idle.sendall(request())
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        busy = []
        for _ in range(4):  # the fourth takes the place of the idle one
            busy.append(stack.enter_context(connect(server)))
            busy[-1].sendall(request("Connection: close", body=slow))
            time.sleep(0.1)
        with contextlib.suppress(ConnectionResetError):
            assert idle.recv(10) == b""
        (reply,) = talk(server, [])
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "EMBEDSERVE_MAX_CONNECTIONS" in reply.json["error"]["message"]
        for connection in busy:
            assert [reply.status for reply in read_replies(hear(connection))] == [200]


def test_metrics_tell_who_was_ended_and_why(impatient: LightServer) -> None:
    def ended() -> float:
        found = re.search(r'embedserve_connections_ended_total{reason="body"} (\S+)', metrics())
        return float(found[1]) if found else 0.0

    def metrics() -> str:
        return httpx.get(f"{impatient.url}/metrics").text

    before = ended()
    with connect(impatient) as connection:
        connection.sendall(BODY)
        assert b" 408 " in hear(connection)
    assert ended() == before + 1
    assert re.search(r"^embedserve_connections [1-9]", metrics(), re.MULTILINE)
