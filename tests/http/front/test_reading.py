"""Heads and chunks: whatever comes, it is read as another reader reads it, or refused."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given
from hypothesis import strategies as st

from embedserve.http.front.chunks import ChunkReader
from embedserve.http.front.head import Head, read_head
from embedserve.http.front.refusal import Refused

LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a?b HTTP/1.1",
        b"POST http://[ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"Host: x",
        b"Content-Length: 3",
        b"Content-Length: 4",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"X: y",
        b" folded",
        b"",
    ]
)


def read(data: bytes) -> Head | None:
    try:
        head = read_head(data, 100)
        assert head.path.startswith((b"/", b"*"))
    except Refused:
        return None
    return head


@given(st.lists(LINES, max_size=8), st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_a_head_that_is_accepted_means_the_same_to_another_reader(lines: list[bytes], end: bytes) -> None:
    data = end.join(lines) + b"\r\n\r\n"
    if b"\r\n\r\n" in data[:-4]:
        return  # two heads: the connection cuts them apart first
    head = read(data)
    if head is None:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(data)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert [(name, value.strip()) for name, value in head.headers] == list(event.headers)
    other.receive_data(b"3\r\nabc\r\n" if head.length is None else b"abc")
    body = other.next_event()
    assert isinstance(body, h11.Data if head.length != 0 else h11.EndOfMessage)


@given(st.binary(max_size=300))
def test_noise_is_no_head(noise: bytes) -> None:
    read(noise + b"\r\n\r\n")
    read(b"GET / HTTP/1.1\r\nHost: x\r\n" + noise + b"\r\n\r\n")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.data())
def test_chunks_in_any_segments(pieces: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%X;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nT: u\r\n\r\n"
    sent = coded + b"next"
    cuts = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent)), max_size=10))})
    reader, waiting, body = ChunkReader(), bytearray(), b""
    for a, b in pairwise(cuts):
        waiting += sent[a:b]
        body += reader.feed(waiting)
    assert reader.done
    assert body == b"".join(pieces)
    assert waiting == b"next"


@given(st.binary(max_size=100), st.integers(0, 100))
def test_noise_in_chunks_means_the_same_in_any_segments(noise: bytes, cut: int) -> None:
    def outcome(*parts: bytes) -> tuple[bytes, bool, bytes] | None:
        reader, waiting, body = ChunkReader(), bytearray(), b""
        try:
            for part in parts:
                waiting += part
                body += reader.feed(waiting)
        except Refused:
            return None
        return body, reader.done, bytes(waiting)

    data = b"3\r\nabc\r\n" + noise
    assert outcome(data) == outcome(data[:cut], data[cut:])
