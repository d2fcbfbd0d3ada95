"""Uploads of every shape: always one reply below 500, never a traceback, never a draft left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile.raw import connect, head
from light_server import LightServer

FILES = "/compatible-mode/v1/files"
CONTENT = b'{"custom_id":"a"}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[LightServer]:
    with LightServer(environment={"EMBEDSERVE_MAX_FILE_MB": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LightServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        yield client


def drafts(server: LightServer) -> list[str]:
    return [path.name for path in (server.data_dir / "files" / "uploads").iterdir() if path.name[0] == "."]


def form(boundary: bytes, *parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + end


def part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + content


def upload(client: httpx.Client, body: bytes, boundary: bytes = b"B") -> httpx.Response:
    kind = b"multipart/form-data; boundary=" + boundary
    return client.post(FILES, content=body, headers={"Content-Type": kind})  # type: ignore[dict-item]


def good(client: httpx.Client, filename: bytes = b"f.jsonl", **fields: str) -> httpx.Response:
    parts = [part(name.encode(), value.encode()) for name, value in {"purpose": "batch", **fields}.items()]
    file = part(b"file", CONTENT, b'; filename="' + filename + b'"')
    return upload(client, form(b"B", *parts, file))


pieces = st.sampled_from(
    [
        b"--B",
        b"--B--",
        b"\r\n",
        b"\n",
        b"\r",
        b"--",
        b"B",
        b":",
        b'"',
        b";",
        b"=",
        b"\x00",
        b"x" * 5000,
        b"Content-Disposition",
        b"form-data",
        b'name="file"',
        b'name="purpose"',
        b'filename="a"',
        b"batch",
        b"filename*=UTF-8''%ff",
        b"Content-Type: text/plain",
        b"\r\n\r\n",
        b"\xff\xfe",
    ]
)
bodies = st.one_of(
    st.lists(pieces, max_size=20).map(b"".join),
    st.binary(max_size=200),
    st.lists(
        st.tuples(st.binary(max_size=20), st.binary(max_size=50), st.binary(max_size=60)), max_size=5
    ).map(lambda parts: form(b"B", *(part(*one) for one in parts))),
    st.integers(0, 40).map(lambda count: form(b"B", *[part(b"a", b"b")] * count)),
)
kinds = st.one_of(
    st.just(b"multipart/form-data; boundary=B"),
    st.integers(1, 5000).map(lambda size: b"multipart/form-data; boundary=" + b"b" * size),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(
        lambda text: b"multipart/form-data; " + text.encode()
    ),
    st.integers(1, 3000).map(lambda size: b"multipart/form-data; " + b';"' * size + b"boundary=B"),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, kind=kinds)
def test_any_form(server: LightServer, client: httpx.Client, body: bytes, kind: bytes) -> None:
    try:
        reply = client.post(FILES, content=body, headers={"Content-Type": kind})  # type: ignore[dict-item]
    except httpx.LocalProtocolError:
        return  # a header that no client can send
    assert reply.status_code < 500, reply.text
    reply.json()
    assert not drafts(server)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("size", [200, 201, 257, 60_000])
def test_a_boundary_of_any_length(client: httpx.Client, size: int) -> None:
    boundary = b"b" * size
    parts = [part(b"purpose", b"batch"), part(b"file", CONTENT, b'; filename="f"')]
    reply = upload(client, form(boundary, *parts), boundary)
    assert reply.status_code == (200 if size <= 200 else 400)
    if size > 200:
        assert "boundary has more than 200 bytes" in reply.text


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        ("3600", 200),
        ("2592000", 200),
        ("1", 400),
        ("9" * 5000, 400),
        ("-1", 400),
        ("²", 400),
        ("٣٦٠٠", 400),
        ("1e9", 400),
        ("", 400),
        ("0" * 5000 + "3600", 400),
    ],
)
def test_any_lifetime(client: httpx.Client, seconds: str, status: int) -> None:
    assert good(client, **{"expires_after[seconds]": seconds}).status_code == status


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"a/b\\c.jsonl", "c.jsonl"),
        (b"../../etc/passwd", "passwd"),
        (b"/", "file"),
        (b"..", ".."),
        (b"n" * 3000 + b".jsonl", "n" * 506 + ".jsonl"),
        ("衣服.jsonl".encode(), "衣服.jsonl"),
        (b"\xff.jsonl", "\ufffd.jsonl"),
        (b"a\0b", None),
        (b"a\x1bb", None),
        (b"n" * 10_000, None),
    ],
)
def test_any_file_name(server: LightServer, client: httpx.Client, given: bytes, kept: str | None) -> None:
    reply = good(client, given)
    if kept is None:
        assert reply.status_code == 400
        assert "control character" in reply.text or "headers of a part are too long" in reply.text
    else:
        assert reply.status_code == 200
        assert reply.json()["filename"] == kept
        content = client.get(f"{FILES}/{reply.json()['id']}/content")
        assert content.content == CONTENT


def test_a_file_over_the_limit_and_a_field_over_its(server: LightServer, client: httpx.Client) -> None:
    purpose = part(b"purpose", b"batch")
    reply = upload(client, form(b"B", purpose, part(b"file", b"x" * (2**20 + 1), b'; filename="f"')))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "file")
    reply = upload(client, form(b"B", part(b"purpose", b"b" * 9000)))
    assert reply.status_code == 400
    assert "8192 bytes" in reply.text
    assert not drafts(server)


@pytest.mark.parametrize("name", [b"a", b"", b"purpose"])
def test_a_form_has_no_more_parts_than_fields_may_be(client: httpx.Client, name: bytes) -> None:
    few = [part(name, b"batch")] * 31
    file = [part(b"purpose", b"batch"), part(b"file", CONTENT, b'; filename="f"')]
    assert upload(client, form(b"B", *few, *file)).status_code == 200
    reply = upload(client, form(b"B", *few, *few, *file))
    assert reply.status_code == 400
    assert "more than 32 fields" in reply.text


def test_nobody_reads_what_follows_a_form(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield form(b"B", part(b"purpose", b"batch"), part(b"file", CONTENT, b'; filename="f"'))
        while True:
            sent += 2**16
            assert sent < 2**30
            yield b"x" * 2**16

    try:
        kind = {"Content-Type": "multipart/form-data; boundary=B"}
        assert client.post(FILES, content=endless(), headers=kind).status_code == 200
    except httpx.TransportError:
        pass  # it was told, and cut off because it did not listen
    assert sent < 2**28


@pytest.mark.parametrize("sent", [0, 10, 120, 200_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_who_hangs_up_in_an_upload_leaves_nothing(server: LightServer, sent: int, chunked: bool) -> None:
    kind: dict[str, Any] = {"Content-Type": "multipart/form-data; boundary=B"}
    purpose, file = part(b"purpose", b"batch"), part(b"file", b"x" * 500_000, b'; filename="f"')
    body = form(b"B", purpose, file)
    before = server.log.count(" 499 ")
    with connect(server) as connection:
        length = None if chunked else len(body)
        piece = b"%x\r\n" % (sent + 10) + body[:sent] if chunked else body[:sent]
        connection.sendall(head(server, FILES, length, kind) + piece)
        time.sleep(0.2)
    deadline = time.monotonic() + 30
    while server.log.count(" 499 ") == before or drafts(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in server.log
