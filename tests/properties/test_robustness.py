"""No request whatever makes the server fail: every answer is below 500, and it stays alive."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from light_server import LightServer

PATHS = (
    "/compatible-mode/v1/embeddings",
    "/v1/embeddings",
    "/compatible-mode/v1/models",
    "/compatible-mode/v1/models/text-embedding-v4",
    "/compatible-mode/v1/files",
    "/compatible-mode/v1/files/x/content",
    "/compatible-mode/v1/batches",
    "/compatible-mode/v1/batches/x",
    "/compatible-mode/v1/batches/x/cancel",
    "/api/v1/services/embeddings/text-embedding/text-embedding",
    "/api/v1/services/embeddings/multimodal-embedding/multimodal-embedding",
    "/api/v1/models",
    "/api/v1/tasks",
    "/api/v1/tasks/x",
    "/api/v1/tasks/x/cancel",
    "/api/v1/results/x",
    "/openapi.json",
    "/health",
    "/metrics",
    "/",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")

# ruff: noqa: RUF005
names = st.sampled_from(
    ["model", "input", "texts", "parameters", "dimension", "dimensions", "encoding_format", "text_type"]
    + ["output_type", "instruct", "truncate", "input_file_id", "endpoint", "completion_window", "metadata"]
)
odd_values = st.sampled_from(
    [2**31, -1, 2**63, 2**64, 10**30, 1.5, 1e308, float("nan"), float("inf"), "", "\x00", "\ud800", "a\udfff"]
    + [True, None, [], {}, "text-embedding-v4", "text-embedding-v2", "text-embedding-async-v2", 1024, 64]
    + ["base64", "dense&sparse", "query", "24h", "/v1/embeddings", "start"]
)
values = st.recursive(
    st.one_of(odd_values, st.integers(), st.floats(), st.text(max_size=20), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12), st.dictionaries(names | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)
near_requests = st.one_of(
    st.fixed_dictionaries(
        {"model": st.just("text-embedding-v4") | odd_values, "input": values},
        optional={"dimensions": values, "encoding_format": values, "text_type": values, "instruct": values},
    ),
    st.fixed_dictionaries(
        {
            "model": st.just("text-embedding-v4") | odd_values,
            "input": st.fixed_dictionaries({"texts": values}) | values,
        },
        optional={
            "parameters": values
            | st.fixed_dictionaries(
                {}, optional={"dimension": values, "instruct": values, "truncate": values}
            )
        },
    ),
    st.dictionaries(names, values, max_size=6),
)
bodies = st.one_of(
    near_requests.map(lambda given: json.dumps(given).encode()),
    values.map(lambda given: json.dumps(given).encode()),
    near_requests.map(lambda given: json.dumps(given).encode()[:-3]),
    st.binary(max_size=60),
    st.sampled_from([b"[" * 1000 + b"]" * 1000, b'{"a":' * 900 + b"1" + b"}" * 900, b"9" * 5000]),
    st.sampled_from(["model", "input", "dimensions", "encoding_format", "metadata", "endpoint"]).map(
        lambda name: (
            json.dumps({"model": "text-embedding-v4", "input": "x", name: 0}).encode()[:-2]
            + b"[" * 1015
            + b"]" * 1015
            + b"}"
        )
    ),
)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
headers = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "X-DashScope-Async", "X-DashScope-WorkSpace", "Accept", "Accept-Encoding", "Host"]
        + ["X-DashScope-EncryptionKey", "Range", "If-None-Match", "Cookie", "Idempotency-Key"]
    ),
    header_values | st.sampled_from(["enable", "application/json", "multipart/form-data", "bytes=-1"]),
    max_size=3,
)


@pytest.fixture(scope="module", params=["strict", "lenient"])
def server(request: pytest.FixtureRequest) -> Iterator[LightServer]:
    with LightServer("--limits", request.param) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LightServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as client:
        yield client


def check(reply: httpx.Response) -> None:
    assert reply.status_code < 500, reply.text
    assert len(reply.headers["x-request-id"]) == 36
    if reply.headers.get("content-type") == "application/json" and reply.content:
        reply.json()


relaxed = settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(path=st.sampled_from(PATHS), body=bodies)
def test_any_body(client: httpx.Client, path: str, body: bytes) -> None:
    check(client.post(path, content=body, headers={"Content-Type": "application/json"}))


@relaxed
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS) | st.text(max_size=20).map(lambda text: "/" + text),
    query=st.dictionaries(
        st.sampled_from(
            ["page_no", "page_size", "limit", "after", "status", "start_time", "model", "purpose"]
        ),
        st.text(max_size=12) | st.integers().map(str),
        max_size=2,
    ),
    more=headers,
    body=bodies | st.none(),
)
def test_any_method_path_query_and_headers(
    client: httpx.Client,
    method: str,
    path: str,
    query: dict[str, str],
    more: dict[str, str],
    body: bytes | None,
) -> None:
    check(client.request(method, quote(path, errors="replace"), params=query, headers=more, content=body))


@relaxed
@given(given_key=st.binary(min_size=1, max_size=40).filter(lambda key: not set(key) & set(b"\r\n\0")))
def test_any_key(client: httpx.Client, given_key: bytes) -> None:
    try:
        reply = client.post(
            "/v1/embeddings",
            json={"model": "text-embedding-v4", "input": "x"},
            headers=[(b"authorization", b"Bearer x" + given_key)],
        )
    except httpx.LocalProtocolError:
        return  # a header that no client can send
    assert reply.status_code in (400, 401)


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
    ids=["garbage", "short body", "negative length", "bad chunk", "bad path", "bad version", "tls"],
)
def test_broken_http(server: LightServer, sent: bytes) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert not answer.startswith(b"HTTP/1.1 5")
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_nothing_above_was_a_bug(server: LightServer, client: httpx.Client) -> None:
    """Runs last: no request ended in the handler of last resort, and the server still embeds."""
    body: dict[str, Any] = {"model": "text-embedding-v4", "input": "still here"}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    assert "Traceback" not in server.log
