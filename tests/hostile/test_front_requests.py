"""Whatever arrives, in whatever segments: one reply a request, and no request but what the caller framed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile.front import TEXT, Segments, chunked, cut, hear, read_replies, request, talk
from hostile.raw import NATIVE, connect
from light_server import LightServer
from serving import KEY

SEGMENTS: tuple[Segments, ...] = ("whole", "halves", "bytes")
CLOSE = "Connection: close"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def server() -> Iterator[LightServer]:
    with LightServer() as running:
        yield running
        assert "Traceback" not in running.log


def good() -> dict[str, tuple[bytes, int]]:
    """name -> what is sent, how many replies with 200 follow; the last one ends the connection"""
    ending = request(CLOSE)
    more = request()
    in_chunks = request(framing=CHUNKED, body=chunked(TEXT))
    rich = chunked(TEXT, extension=b';a=b;c="d"', trailers=b"X: y\r\nContent-Length: 3\r\n")
    settings = "HTTP2-Settings: AAMAAABkAAQ"
    alive = "connection: keep-alive, upgrade"
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")
    return {
        "plain": (ending, 1),
        "h2c, as Java's client": (request(*upgrade, settings) + ending, 2),
        "websocket": (request("Connection: Upgrade", "Upgrade: websocket") + ending, 2),
        "any upgrade": (request("Upgrade: TLS/1.0, nonsense", alive) + ending, 2),
        "upgrade, chunked": (request(*upgrade, framing=CHUNKED, body=chunked(TEXT)) + ending, 2),
        "chunks": (in_chunks + ending, 2),
        "rich chunks": (request(framing="transfer-encoding: Chunked", body=rich) + ending, 2),
        "pipeline": (more * 5 + ending, 6),
        "pipeline of both kinds": ((more + in_chunks) * 3 + ending, 7),
        "empty lines before": (b"\r\n\r\n" + more + b"\r\n" + ending, 2),
        "absolute target": (request(CLOSE, path="http://elsewhere:99/v1/embeddings?a=b"), 1),
        "HTTP/1.0": (request(version="1.0"), 1),
        "expect": (request(CLOSE, "Expect: 100-continue"), 1),
        "unwanted body": (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + ending, 2),
        "no body": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.0\r\n\r\n", 2),
    }


def bad() -> dict[str, tuple[bytes, int]]:
    """name -> what is sent, the status of its only reply"""
    canary = request()

    def framed(*framing: str, body: bytes = b"", version: str = "1.1") -> bytes:
        return request(*framing[1:], framing=framing[0], body=body, version=version)

    zero = b"0\r\n\r\n"
    host = b"Host: x\r\n"
    return {
        # Two readings of one length: a request could hide in the difference.
        "length and chunks": (framed("Content-Length: 5", CHUNKED, body=zero + canary), 400),
        "chunks and length": (framed(CHUNKED, "Content-Length: 5", body=zero + canary), 400),
        "two lengths": (framed("Content-Length: 0", "Content-Length: 5", body=canary), 400),
        "one length twice": (framed("Content-Length: 0", "Content-Length: 0", body=canary), 400),
        "a list of lengths": (framed("Content-Length: 0, 5", body=canary), 400),
        "a signed length": (framed("Content-Length: +5", body=canary), 400),
        "a negative length": (framed("Content-Length: -1", body=canary), 400),
        "a hexadecimal length": (framed("Content-Length: 0x5", body=canary), 400),
        "an empty length": (framed("Content-Length:", body=canary), 400),
        "a length of 30 digits": (framed("Content-Length: " + "9" * 30, body=canary), 400),
        "a length over 64 bits": (framed("Content-Length: 18446744073709551617", body=canary), 400),
        "another coding": (framed("Transfer-Encoding: gzip, chunked", body=zero + canary), 400),
        "chunked within": (framed("Transfer-Encoding: chunked, identity", body=zero + canary), 400),
        "nearly chunked": (framed("Transfer-Encoding: xchunked", body=zero + canary), 400),
        "quoted chunked": (framed('Transfer-Encoding: "chunked"', body=zero + canary), 400),
        "chunked twice": (framed(CHUNKED, CHUNKED, body=zero + canary), 400),
        "chunks in HTTP/1.0": (framed(CHUNKED, body=zero + canary, version="1.0"), 400),
        "a space before the colon": (framed("Transfer-Encoding : chunked", body=zero + canary), 400),
        "a folded line": (framed("Transfer-Encoding:\r\n chunked", body=zero + canary), 400),
        "a hidden line": (framed("X: a\nTransfer-Encoding: chunked", body=zero + canary), 400),
        "a carriage return alone": (framed("X: a\rTransfer-Encoding: chunked", body=zero + canary), 400),
        "NUL in a header": (framed("X: a\0b", body=canary), 400),
        "NUL in a name": (framed("X\0: a", body=canary), 400),
        "a name with a space": (framed("X Y: a", body=canary), 400),
        "no name": (framed(": a", body=canary), 400),
        "no colon": (framed("X", body=canary), 400),
        "lines that end in LF": (canary.replace(b"\r\n", b"\n"), 400),
        "chunk size too large": (framed(CHUNKED, body=b"f" * 17 + b"\r\n" + canary), 400),
        "chunk size no number": (framed(CHUNKED, body=b"5g\r\n" + canary), 400),
        "chunk size negative": (framed(CHUNKED, body=b"-5\r\n" + canary), 400),
        "chunk size after a space": (framed(CHUNKED, body=b" 5\r\nabcde\r\n" + canary), 400),
        "chunk too long": (framed(CHUNKED, body=b"3\r\nabcde\r\n" + canary), 400),
        "chunk line in LF": (framed(CHUNKED, body=b"3\nabc\r\n0\r\n\r\n" + canary), 400),
        "chunk end in LF": (framed(CHUNKED, body=b"3\r\nabc\n0\r\n\r\n" + canary), 400),
        "an extension without end": (framed(CHUNKED, body=b"3;" + b"a" * 5000), 400),
        "a LF in an extension": (framed(CHUNKED, body=b"3;a\nb\r\nabc\r\n0\r\n\r\n" + canary), 400),
        "trailers without end": (framed(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 4000), 400),
        # No request at all.
        "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        "HTTP/3": (b"GET / HTTP/3.0\r\n" + host + b"\r\n", 400),
        "HTTP/0.9": (b"GET /health\r\n\r\n", 400),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        "noise": (bytes(range(128, 256)), 400),
        "CONNECT": (b"CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n" + canary, 405),
        "unknown method": (b"BREW /pot HTTP/1.1\r\n" + host + b"\r\n" + canary, 405),
        "no host": (b"GET /health HTTP/1.1\r\n\r\n" + canary, 400),
        "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + canary, 400),
        "target of no kind": (b"GET health HTTP/1.1\r\n" + host + b"\r\n" + canary, 400),
        "an address without host": (b"GET http:///health HTTP/1.1\r\n" + host + b"\r\n" + canary, 400),
        "raw bytes in the target": (b"GET /h\xc3\xa4 HTTP/1.1\r\n" + host + b"\r\n" + canary, 400),
        "another expectation": (framed("Content-Length: 0", "Expect: tea", body=canary), 417),
    }


GOOD, BAD = good(), bad()


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("name", GOOD)
def test_one_reply_a_request(server: LightServer, name: str, segments: Segments) -> None:
    sent, count = GOOD[name]
    replies = talk(server, cut(sent, segments), pause=0.02 if segments == "halves" else 0)
    assert [reply.status for reply in replies] == [200] * count


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("name", BAD)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(
    server: LightServer, name: str, segments: Segments
) -> None:
    sent, status = BAD[name]
    for before in (0, 1):
        replies = talk(server, cut(request() * before + sent, segments), pause=0.01 * (segments == "halves"))
        # What came before was answered; then one refusal, and nothing after it.
        assert [reply.status for reply in replies] == [200] * before + [status]
        assert replies[-1].headers["connection"] == "close"
        assert replies[-1].json["error"]["message"]
        assert replies[-1].json["request_id"] == replies[-1].headers["x-request-id"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_pipeline_in_any_segments(server: LightServer, data: st.DataObject) -> None:
    dimensions = data.draw(st.lists(st.sampled_from([64, 128, 256]), min_size=1, max_size=6))
    sent = b""
    for i, dimension in enumerate(dimensions):
        body = b'{"model":"text-embedding-v4","input":"one two","dimensions":%d}' % dimension
        headers = ["Connection: close"] if i == len(dimensions) - 1 else []
        if data.draw(st.booleans()):
            coded = chunked(body, size=data.draw(st.integers(1, 80)))
            sent += request(*headers, framing=CHUNKED, body=coded)
        else:
            sent += request(*headers, body=body)
    cuts = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent)), max_size=8))})
    parts = [sent[a:b] for a, b in pairwise(cuts)]
    replies = talk(server, parts, pause=0.002)
    assert [len(reply.json["data"][0]["embedding"]) for reply in replies] == dimensions


def test_who_closes_his_sending_half_is_answered(server: LightServer) -> None:
    for sent, count in GOOD.values():
        whole = sent.replace(b"Connection: close\r\n", b"")
        assert len(talk(server, [whole], half_close=True)) == count
    half = request()
    for length in (20, len(half) - 5):
        (reply,) = talk(server, [half[:length]], half_close=True)
        assert reply.status == 400


def test_a_body_is_sent_when_it_is_asked_for(server: LightServer) -> None:
    head = request("Expect: 100-continue", body=b"", framing=f"Content-Length: {len(TEXT)}")
    with connect(server) as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(TEXT)
        connection.shutdown(socket.SHUT_WR)
        assert [reply.status for reply in read_replies(hear(connection))] == [200]
    # Refused before it was asked for: nobody knows whether it still comes, so the connection ends.
    (reply,) = talk(server, [head.replace(KEY.encode(), b"sk-wrong")])
    assert (reply.status, reply.headers["connection"]) == (401, "close")


@pytest.mark.parametrize("path", ["/v1/embeddings", NATIVE, "/v1/files", "/v1/batches"])
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd, gzip", "nonsense"])
def test_compressed_bodies_are_refused_by_name(server: LightServer, path: str, coding: str) -> None:
    (reply,) = talk(server, [request(CLOSE, f"Content-Encoding: {coding}", path=path)])
    assert reply.status == 415
    told = reply.json if path == NATIVE else reply.json["error"]
    assert coding.split(",")[0] in told["message"]
    assert "without compression" in told["message"]
    (reply,) = talk(server, [request(CLOSE, "Content-Encoding: identity")])
    assert reply.status == 200
