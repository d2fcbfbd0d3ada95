"""The promise of docs/security.md: resident memory stays below start + EMBEDSERVE_MEMORY_LIMIT_MB + 64 MB."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile.raw import EMBEDDINGS, NATIVE, body_for, connect, head, post
from light_server import LightServer
from serving import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SLACK_MB = 64
BODY = 31 * 2**20
MODEL = '{"model":"text-embedding-v4","input":'


def status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {name}")


def fill(start: bytes, item: bytes, size: int = BODY) -> bytes:
    return start + b",".join([item] * ((size - len(start)) // (len(item) + 1))) + b"]}"


def answer(connection: socket.socket) -> int:
    """The status of the reply, after reading it."""
    reply = bytearray()
    while b"\r\n\r\n" not in reply and (block := connection.recv(65_536)):
        reply += block
    return int(reply.split(b" ", 2)[1]) if reply else 0


def send_many(server: Server, body: bytes, times: int = 8, path: str = EMBEDDINGS) -> set[int]:
    """The same body from many at once; the statuses."""

    def send(_: int) -> int:
        with connect(server) as connection:
            with contextlib.suppress(OSError):  # it was refused and the connection closed before all was sent
                connection.sendall(head(server, path, len(body)) + body)
            try:
                return answer(connection)
            except OSError:
                return 0

    with ThreadPoolExecutor(times) as threads:
        return set(threads.map(send, range(times)))


def stalled_bodies(server: Server) -> None:
    connections = [connect(server) for _ in range(20)]
    piece = b'{"model":"' + b"x" * (BODY - 2**20)

    def send(connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sendall(head(server, EMBEDDINGS, BODY) + piece)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(send, connections))
    time.sleep(1)
    for connection in connections:
        connection.close()


def stalled_chunks(server: Server) -> None:
    connections = [connect(server) for _ in range(20)]

    def send(connection: socket.socket) -> None:
        connection.settimeout(5)
        block = b"x" * 2**18
        try:
            connection.sendall(head(server, NATIVE, None) + b'1\r\n"\r\n')
            for _ in range(BODY // len(block)):
                connection.sendall(b"%x\r\n" % len(block) + block + b"\r\n")
        except OSError:
            pass

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(send, connections))
    for connection in connections:
        connection.close()


def bodies(body: bytes, path: str = EMBEDDINGS) -> Callable[[Server], None]:
    def attack(server: Server) -> None:
        assert send_many(server, body, path=path) <= {0, 200, 400, 429, 503}

    return attack


def wide_replies(server: Server, encoding: str, read: bool) -> None:
    texts = [f"text {i}" for i in range(2048)]
    body = body_for(EMBEDDINGS, texts, dimensions=2048, encoding_format=encoding)
    connections = [post(server, EMBEDDINGS, body) for _ in range(6)]
    if read:
        with ThreadPoolExecutor(6) as threads:
            assert set(threads.map(drain, connections)) <= {200, 400, 503}
    else:
        time.sleep(5)
    for connection in connections:
        connection.close()


def drain(connection: socket.socket) -> int:
    status = answer(connection)
    connection.settimeout(2)
    try:
        while connection.recv(2**20):
            pass
    except OSError:
        pass
    return status


def unread_replies(server: Server) -> None:
    """Many small requests on connections that nobody reads from."""
    texts = [f"text {i}" for i in range(10)]
    body = body_for(EMBEDDINGS, texts, dimensions=2048)
    connections = [connect(server) for _ in range(100)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(5)
    for _ in range(4):
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(head(server, EMBEDDINGS, len(body)) + body)
    time.sleep(3)
    for connection in connections:
        connection.close()


def wide_text(emoji: bool) -> bytes:
    """One string of 20 MB; with one emoji in it every character takes four bytes."""
    return (MODEL + '"' + "wide text " * 2_000_000 + ("\U0001f600" if emoji else "") + '"}').encode()


def many_texts() -> bytes:
    return (MODEL + json.dumps(["衣服的质量杠杠的 " * 400] * 2048, ensure_ascii=False) + "}").encode()


ATTACKS: dict[str, Callable[[Server], None]] = {
    "bodies that stop before their end": stalled_bodies,
    "chunks without end": stalled_chunks,
    "objects": bodies(fill(b'{"z":[', b"{}")),
    "empty rows": bodies(fill(MODEL.encode() + b"[", b'""')),
    "numbers": bodies(fill(MODEL.encode() + b"[", b"1")),
    "rows of numbers": bodies(fill(MODEL.encode() + b"[", b"[" + b",".join([b"70000"] * 400) + b"]")),
    "deep": bodies(MODEL.encode() + b"[" * BODY),
    "deep objects": bodies(b'{"a":' * (BODY // 5)),
    "digits": bodies(MODEL.encode() + b"9" * BODY + b"}"),
    "keys": bodies(b"{" + b",".join(b'"%07d":1' % i for i in range(2_500_000)) + b"}"),
    "one string": bodies(wide_text(False)),
    "one wide string": bodies(wide_text(True)),
    "white space": bodies(MODEL.encode() + b'"' + b" " * (BODY - 100) + b'x"}'),
    "many texts": bodies(many_texts()),
    "no JSON": bodies(b"x" * BODY),
    "wide replies": lambda server: wide_replies(server, "float", read=True),
    "wide replies in base64": lambda server: wide_replies(server, "base64", read=True),
    "wide replies that nobody reads": lambda server: wide_replies(server, "float", read=False),
    "replies that nobody reads": unread_replies,
}


@dataclass(frozen=True)
class Measured:
    server: Server
    limit_mb: int
    start_mb: float


def measure(server: Server, limit_mb: int) -> Measured:
    """Warm it up first: code that is loaded with the first requests is not what they hold."""
    for _ in range(20):
        assert server.openai({"model": "text-embedding-v4", "input": ["warm"] * 10}).status_code == 200
    return Measured(server, limit_mb, status_mb(server.process.pid, "VmRSS"))


@pytest.fixture(scope="module", params=[64, 300])
def light(request: pytest.FixtureRequest) -> Iterator[Measured]:
    environment = {"EMBEDSERVE_MEMORY_LIMIT_MB": str(request.param)}
    with LightServer("--limits", "lenient", environment=environment) as running:
        yield measure(running, request.param)


@pytest.fixture(scope="module", params=[64, 300])
def real(request: pytest.FixtureRequest) -> Iterator[Measured]:
    environment = {"EMBEDSERVE_MEMORY_LIMIT_MB": str(request.param)}
    with Server("--limits", "lenient", environment=environment) as running:
        yield measure(running, request.param)


def attack_and_check(measured: Measured, attack: Callable[[Server], None]) -> None:
    server = measured.server
    attack(server)
    peak, now = status_mb(server.process.pid, "VmHWM"), status_mb(server.process.pid, "VmRSS")
    print(
        f"limit {measured.limit_mb}, start {measured.start_mb:.0f}, peak so far {peak:.0f}, now {now:.0f} MB"
    )
    assert peak <= measured.start_mb + measured.limit_mb + SLACK_MB
    assert server.openai({"model": "text-embedding-v4", "input": "still here"}).status_code == 200


@pytest.mark.parametrize("attack", ATTACKS)
def test_memory_stays_within_the_promise(light: Measured, attack: str) -> None:
    attack_and_check(light, ATTACKS[attack])


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_memory_of_the_real_engine_stays_within_the_promise(real: Measured, attack: str) -> None:
    attack_and_check(real, ATTACKS[attack])


def test_everything_at_once_and_everything_is_given_back(light: Measured) -> None:
    def everything(server: Server) -> None:
        with ThreadPoolExecutor(len(ATTACKS)) as threads:
            list(threads.map(lambda attack: attack(server), ATTACKS.values()))

    attack_and_check(light, everything)
    pid, deadline = light.server.process.pid, time.monotonic() + 60
    while status_mb(pid, "VmRSS") > light.start_mb + SLACK_MB:
        assert time.monotonic() < deadline
        time.sleep(0.5)
