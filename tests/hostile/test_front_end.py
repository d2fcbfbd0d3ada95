"""SIGTERM: who had sent a whole request is answered, nobody else is waited for beyond a bound."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from hostile.front import hear, read_replies, request
from hostile.raw import connect
from hostile.test_front_limits import BODY, HALF, download
from light_server import LightServer
from serving import KEY, Server

BOUND = 8
LONG = b'{"model":"text-embedding-v4","input":"%s"}' % (b"word " * 400)


def silent(server: Server) -> socket.socket:
    return connect(server)


def sending(server: Server, begun: bytes) -> socket.socket:
    connection = connect(server)
    connection.sendall(begun)
    return connection


def upload(server: Server) -> socket.socket:
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 5000000\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"custom_id": '
    return sending(server, f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}".encode())


STALLED: dict[str, Callable[[Server], socket.socket]] = {
    "a silent connection": silent,
    "an idle connection": lambda server: sending(server, request()),
    "half a head": lambda server: sending(server, HALF),
    "half a body": lambda server: sending(server, BODY + b"{"),
    "half an upload": upload,
    "a download that is not read": lambda server: download(server, 16),
}


@pytest.fixture
def server() -> LightServer:
    environment = {"EMBEDSERVE_SHUTDOWN_SECONDS": str(BOUND), "SECONDS_PER_TOKEN": "0.002"}
    return LightServer(environment=environment)


@pytest.mark.parametrize("name", STALLED)
def test_the_end_comes_in_time_and_whole_requests_are_answered(server: LightServer, name: str) -> None:
    with server:
        stalled = [STALLED[name](server) for _ in range(3)]
        time.sleep(0.2)
        whole = sending(server, request(body=LONG) * 2)  # most of a second of work each
        time.sleep(0.2)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [reply.status for reply in read_replies(hear(whole))] == [200, 200]
        assert server.process.wait(60) in (0, -signal.SIGTERM)
        took = time.monotonic() - asked
        for connection in (*stalled, whole):
            connection.close()
        assert " ERROR " not in server.log
        assert took < BOUND + 10  # the bound, and a machine that is busy with other tests
        assert "EMBEDSERVE_SHUTDOWN_SECONDS" not in server.log  # ended by itself, was not killed


def test_work_that_takes_longer_than_the_bound_is_left(server: LightServer) -> None:
    with server:
        texts = [f"{i} " + "word " * 2000 for i in range(10)]
        body = b'{"model":"text-embedding-v4","input":%s}' % str(texts).replace("'", '"').encode()
        connection = sending(server, request(body=body))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        with contextlib.suppress(ConnectionResetError):
            assert read_replies(hear(connection)) == []
        connection.close()
        assert "Traceback" not in server.log


def test_a_batch_job_does_not_hold_the_end(server: LightServer) -> None:
    body = {"model": "text-embedding-v4", "input": "word " * 400}
    line = {"method": "POST", "url": "/v1/embeddings", "body": body}
    content = "\n".join(json.dumps(line | {"custom_id": str(i)}) for i in range(50))
    with server, httpx.Client(headers=server.headers) as client:
        form = {"file": ("lines.jsonl", content), "purpose": (None, "batch")}
        stored = client.post(f"{server.url}/v1/files", files=form).json()
        batch = {"input_file_id": stored["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        created = client.post(f"{server.url}/v1/batches", json=batch)
        assert created.status_code == 200
        time.sleep(1)
        assert server.stop(timeout=60) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log
        assert "EMBEDSERVE_SHUTDOWN_SECONDS" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    with LightServer(environment={"EMBEDSERVE_SHUTDOWN_SECONDS": "600"}) as server:
        connection = sending(server, BODY)
        time.sleep(0.2)
        server.process.send_signal(number)
        time.sleep(1)
        assert server.process.poll() is None
        server.process.send_signal(number)
        assert server.process.wait(10) == 128 + number
        connection.close()
