"""No input is a failure of the server: every route, value by value, on both databases."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedserve.http import app
from embedserve.http.admin.routes import admin_routes
from light_server import LightServer
from serving import KEY

ADMIN = "admin-key-of-this-test"

LONG = "x" * 100_000
HOSTILE = (
    "\0",
    "a\0b",
    "\x01\x1b[31m",
    "\ud800",
    "\udfff\ud800",
    "\ufffe\uffff",
    "\U0010ffff",
    "٣٤",  # Arabic-Indic digits
    "२०२६०१०१००००००",
    "９" * 14,
    "9" * 5000,
    "-1",
    "1e400",
    "nan",
    "18446744073709551616",
    "00000000000000",
    "99999999999999",
    "20260230000000",
    "http://[",
    "http://[::1",
    "http://" + "a" * 64 + ".example",
    "http://a:99999999/",
    "file-batch-" + "a" * 60,
    "../../etc/passwd",
    "%00%ff%",
    "' OR 1=1 --",
    "{}",
    "[]",
    "null",
    " ",
    "",
    LONG,
)
"""Texts that meet some limit of JSON, Unicode, URLs, the drivers or the databases."""
VALUES: tuple[Any, ...] = (
    *HOSTILE,
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    [None],
    ["\0", "\ud800"],
    {"\0": "\0"},
    {"": {}},
)
RAW_PATHS = (
    b"%",
    b"%zz",
    b"%ff%fe",
    b"%00",
    b"%ed%a0%80",
    b"\xff\xfe",
    b"\xe6\xb5\x8b",
    b"a%2fb",
    b"..%2f..",
    b"*",
)

ROUTES = [
    (method, route.path)
    for route in (
        *(r for root in app.OPENAI_ROOTS[:1] for r in app.openai_routes(root)),
        *(r for root in app.NATIVE_ROOTS[:1] for r in app.native_routes(root)),
        *app.operator_routes(),
        *app.console_routes(),
        *admin_routes(),
    )
    for method in sorted(route.methods - {"HEAD"})  # type: ignore[attr-defined]
] + [("GET", "/api/v1/results/{name}"), ("GET", "/api/v1/models")]
BODIES = [(method, path) for method, path in ROUTES if method in ("POST", "PATCH")]
QUERIES = {
    "/compatible-mode/v1/files": "limit after purpose create_after create_before order",
    "/compatible-mode/v1/batches": "limit after ds_name input_file_ids status create_after create_before",
    "/api/v1/tasks": "page_no page_size start_time end_time model_name api_key_id region status",
    "/api/v1/models": "page_no page_size model",
    "/api/v1/results/a": "Expires Signature",
    "/admin/usage": "by since until key workspace model format",
}
GOOD: dict[str, Any] = {
    "model": "text-embedding-v4",
    "input": "a",
    "dimensions": 64,
    "encoding_format": "float",
    "endpoint": "/v1/embeddings",
    "completion_window": "24h",
    "input_file_id": "file-batch-0",
    "metadata": {"ds_name": "a", "ds_description": "b"},
    "parameters": {"dimension": 64, "output_type": "dense", "text_type": "query", "instruct": "a"},
    "name": "a",
    "workspace": "default",
    "models": ["text-embedding-v4"],
    "rpm": 1,
    "budget": 1.0,
    "expires_at": "2100-01-01T00:00:00Z",
    "grace_seconds": 1,
    "paused": True,
}


ADMIN_FIELDS = {
    "name",
    "workspace",
    "models",
    "rpm",
    "budget",
    "expires_at",
    "grace_seconds",
    "paused",
}


class Target:
    """A server and a client that tells what is wrong with an answer."""

    def __init__(self, server: LightServer) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=60)

    def headers(self, path: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN if path.startswith('/admin') else KEY}"}

    def wrong(self, method: str, path: str, **more: Any) -> str | None:
        headers = self.headers(path) | more.pop("headers", {})
        reply = self.client.request(method, path, headers=headers, **more)
        return self.judge(
            f"{method} {path[:80]} {str(more)[:200]}", reply.status_code, reply.text, reply.headers
        )

    def judge(self, call: str, status: int, text: str, headers: Any) -> str | None:
        if status < 500 and headers.get("x-request-id"):
            return None
        return f"{call}: {status} {text[:200]}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    environment = {
        "EMBEDSERVE_ADMIN_KEY": ADMIN,
        "EMBEDSERVE_BATCH_CONCURRENCY": "0",
        "EMBEDSERVE_URL_HOSTS": "*.example",
        "EMBEDSERVE_CALLBACK_HOSTS": "*.example",
    }
    if request.param == "postgresql":
        pytest.importorskip("psycopg")
        import psycopg

        from real_servers import PostgresServer

        server: PostgresServer = request.getfixturevalue("postgres_server")
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS hostile")
            connection.execute("CREATE DATABASE hostile")
        environment["EMBEDSERVE_DATABASE_URL"] = server.url("hostile")
    with LightServer("--limits", "lenient", environment=environment) as running:
        yield Target(running)
        assert ", in " not in running.log, running.log  # no frame: nothing was unforeseen
        running.stop()


def fill(path: str, value: str) -> str:
    return re.sub(r"\{\w+\}", lambda _: quote(value, safe="", errors="surrogatepass"), path)


def test_any_id_in_any_path_is_answered(target: Target) -> None:
    wrong = [
        told
        for method, path in ROUTES
        if "{" in path
        for value in HOSTILE
        if len(value) <= 5000 and (told := target.wrong(method, fill(path, value or "%20"), json={}))
    ]
    assert wrong == []


def test_an_id_that_cannot_be_is_not_found(target: Target) -> None:
    for path in (
        "/v1/files/{id}",
        "/v1/files/{id}/content",
        "/v1/batches/{id}",
        "/admin/keys/{id}",
        "/v1/models/{id}",
    ):
        for value in ("\0", "a\0b", "\ud800", "٣", "9" * 5000):
            filled = fill(path, value)
            assert target.client.get(filled, headers=target.headers(path)).status_code == 404, filled[:80]


def test_any_value_of_any_parameter_is_answered(target: Target) -> None:
    wrong = []
    for path, names in QUERIES.items():
        for name in names.split():
            for value in HOSTILE:
                if len(value) <= 5000:
                    query = f"{name}={quote(value, safe='', errors='surrogatepass')}"
                    wrong.append(target.wrong("GET", f"{path}?{query}"))
    assert [told for told in wrong if told] == []


def test_any_value_of_any_field_is_answered(target: Target) -> None:
    wrong = []
    for method, path in BODIES:
        admin = path.startswith("/admin")
        for name in ADMIN_FIELDS if admin else GOOD.keys() - ADMIN_FIELDS:
            for value in VALUES:
                body = {name: value} if admin else GOOD | {name: value}
                if path.endswith("text-embedding") and name != "input":
                    body["input"] = {"texts": ["a"]}
                elif path.endswith("text-embedding"):
                    body["input"] = {"texts": value}
                wrong.append(post(target, method, fill(path, "a"), body))
    assert [told for told in wrong if told] == []


def test_any_input_of_a_task_is_answered(target: Target) -> None:
    path = "/api/v1/services/embeddings/text-embedding/text-embedding"
    for value in VALUES:
        body = {
            "model": "text-embedding-async-v2",
            "input": {"url": value},
            "parameters": {"text_type": "query"},
        }
        assert post(target, "POST", path, body, headers={"X-DashScope-Async": "enable"}) is None
        body = {
            "model": "text-embedding-async-v2",
            "input": {"url": "http://a.example/"},
            "parameters": value,
        }
        assert post(target, "POST", path, body, headers={"X-DashScope-Async": "enable"}) is None


def test_any_metadata_and_any_name_of_a_file_are_answered(target: Target) -> None:
    file = target.client.post(
        "/v1/files", headers=target.headers(""), files={"file": ("a", b"{}")}, data={"purpose": "batch"}
    ).json()["id"]
    batch = {"endpoint": "/v1/embeddings", "completion_window": "24h", "input_file_id": file}
    for value in VALUES:
        for name in ("ds_name", "ds_description", "ds_batch_finish_callback", "a", "\0"):
            assert post(target, "POST", "/v1/batches", batch | {"metadata": {name: value}}) is None
    for value in HOSTILE:
        text = value.encode("utf-8", "surrogatepass")
        for form in (
            b'Content-Disposition: form-data; name="file"; filename="' + text[:2000] + b'"\r\n\r\n{}',
            b'Content-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n' + text,
            b'Content-Disposition: form-data; name="purpose"\r\n\r\n' + text,
        ):
            good = b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            content = good + b"--B\r\n" + form + b"\r\n--B--\r\n"
            headers = {"Content-Type": "multipart/form-data; boundary=B"}
            assert target.wrong("POST", "/v1/files", content=content, headers=headers) is None
    listed = target.client.get("/v1/files", headers=target.headers("")).json()["data"]
    assert all("\0" not in file["filename"] for file in listed)


def post(target: Target, method: str, path: str, body: Any, **more: Any) -> str | None:
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | more.pop("headers", {})
    return target.wrong(method, path, content=content, headers=headers)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-DashScope-WorkSpace",
        "Host",
        "X-DashScope-Async",
        "Content-Type",
        "X-Request-Id",
        "X-Forwarded-For",
        "If-None-Match",
        "Accept-Encoding",
        "Content-Encoding",
    ],
)
def test_any_header_is_answered(target: Target, name: str) -> None:
    for value in (
        b"\xff\xfe",
        b"[",
        b"]:x",
        b"a" * 5000,
        b"Bearer",
        b"Bearer \xe6",
        b"'",
        b"%00",
        b"-1",
        b"a,b;c=",
        b"",
    ):
        for method, path in (
            ("POST", "/v1/embeddings"),
            ("GET", "/api/v1/tasks"),
            ("GET", "/console"),
            ("GET", "/v1/models/"),
            ("GET", "/metrics"),
            ("GET", "/api/v1/nothing"),
        ):
            head = {"Host": b"a", "Authorization": f"Bearer {KEY}".encode(), "Connection": b"close"} | {
                name: value
            }
            assert raw(target, method.encode(), path.encode(), head, b"{}") is None


def test_any_bytes_of_a_path_are_answered(target: Target) -> None:
    head = {"Host": b"a", "Authorization": f"Bearer {KEY}".encode(), "Connection": b"close"}
    for path in (b"/v1/files/", b"/api/v1/tasks/", b"/", b"/v1/models?a=", b"/console/", b"/api/v1/results/"):
        for more in RAW_PATHS:
            assert raw(target, b"GET", path + more, head, b"") is None
    for method in (b"PROPFIND", b"CONNECT", b"TRACE", b"OPTIONS", b"HEAD"):
        assert raw(target, method, b"/v1/files", head, b"") is None


def raw(target: Target, method: bytes, path: bytes, head: dict[str, bytes], body: bytes) -> str | None:
    """As :meth:`Target.wrong`, with bytes that no HTTP client would send."""
    parts = urlsplit(target.server.url)
    lines = [method + b" " + path + b" HTTP/1.1", b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in head.items()]
    with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        answer = b""
        while block := connection.recv(65_536):
            answer += block
    status = int(answer.split(b" ", 2)[1])
    return None if status < 500 else f"{method!r} {path!r} {head}: {answer[:300]!r}"


TEXTS = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(route=st.sampled_from(BODIES), fields=st.dictionaries(st.sampled_from(list(GOOD)), JSON, max_size=4))
def test_whole_json_is_answered(target: Target, route: tuple[str, str], fields: dict[str, Any]) -> None:
    method, path = route
    assert post(target, method, fill(path, "a"), GOOD | fields) is None
