"""curl, as the product documents and the server's own greeting write it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from serving import KEY, Server

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

BODY = {"model": "text-embedding-v4", "input": ["风急天高猿啸哀", "渚清沙白鸟飞回"], "dimensions": 64}


def curl(*arguments: str) -> tuple[dict[str, str], Any]:
    """(response headers in lower case with the status under "status", body)"""
    done = subprocess.run(["curl", "-sS", "-i", *arguments], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while body.startswith(b"HTTP/"):  # 100 Continue
        head, _, body = body.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return headers | {"status": status.split()[1]}, body


def post(server: Server, *arguments: str) -> list[str]:
    return [
        "-X",
        "POST",
        f"{server.openai_url}/embeddings",
        *("-H", f"Authorization: Bearer {KEY}"),
        *("-H", "Content-Type: application/json"),
        *arguments,
    ]


@pytest.mark.quick
def test_the_documented_call(server: Server) -> None:
    headers, body = curl(*post(server, "-d", json.dumps(BODY)))
    answer = json.loads(body)
    assert headers["status"] == "200"
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == answer["id"]
    assert [len(row["embedding"]) for row in answer["data"]] == [64, 64]


def test_a_chunked_body(server: Server) -> None:
    headers, body = curl(*post(server, "-H", "Transfer-Encoding: chunked", "-d", json.dumps(BODY)))
    assert headers["status"] == "200"
    assert len(json.loads(body)["data"]) == 2


def test_expect_100_continue(server: Server) -> None:
    headers, _ = curl(*post(server, "-H", "Expect: 100-continue", "-d", json.dumps(BODY)))
    assert headers["status"] == "200"


def test_one_connection_serves_many_requests(server: Server) -> None:
    once = ["-w", "%{num_connects}\n", "-o", "/dev/null", *post(server, "-d", json.dumps(BODY))]
    done = subprocess.run(["curl", "-sS", *once, "--next", *once], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "0"]


def test_gzip_when_it_is_turned_on() -> None:
    with Server(environment={"EMBEDSERVE_GZIP": "true"}) as server:
        body = json.dumps(BODY | {"dimensions": 1024})
        headers, packed = curl(*post(server, "-H", "Accept-Encoding: gzip", "-d", body))
        assert headers["content-encoding"] == "gzip"
        assert len(packed) < 20_000
        headers, _ = curl(*post(server, "-d", body))
        assert "content-encoding" not in headers
        _, inflated = curl("--compressed", *post(server, "-d", body))
        assert len(json.loads(inflated)["data"][0]["embedding"]) == 1024


def test_the_line_the_server_greets_with_works(server: Server) -> None:
    line = next(line for line in server.log.splitlines() if line.strip().startswith("curl "))
    done = subprocess.run(
        ["bash", "-c", line], env={"DASHSCOPE_API_KEY": KEY, "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 1024


def test_an_offer_of_http_2_is_passed_over_and_http_2_itself_refused(server: Server) -> None:
    headers, body = curl("--http2", *post(server, "-d", json.dumps(BODY)))
    assert headers["status"] == "200"
    assert len(json.loads(body)["data"]) == 2
    prior = ["curl", "-sS", "--http2-prior-knowledge", *post(server, "-d", json.dumps(BODY))]
    done = subprocess.run(prior, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "refused 400 VersionNotSupported" in server.log
    headers, _ = curl(*post(server, "-d", json.dumps(BODY)))
    assert headers["status"] == "200"
