"""The head of a request: request line and headers, and with them where its body ends.

llhttp decides what is a head. What decides where one request ends and the next begins is checked here once
more and in one way only: whoever stands in front of this server must never see another boundary than we do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httptools

from embedserve.http.front.refusal import Refused, bad_request

Headers = list[tuple[bytes, bytes]]

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"[0-9]{1,18}")


def has_stray_line_end(data: bytes | bytearray, start: int = 0) -> bool:
    """A line feed or a carriage return stands alone: some take it for the end of a line, some do not."""
    if data[start - 1 : start] == b"\r":
        start -= 1
    ends = data.count(b"\r\n", start)
    returns = data.count(b"\r", start) - data.endswith(b"\r")  # the last one may get its line feed yet
    return data.count(b"\n", start) != ends or returns != ends


def _other_version(version: str) -> Refused:
    told = f"HTTP/{version} is not spoken here: use HTTP/1.1, or a proxy in front that ends HTTP/2."
    return Refused(400, "VersionNotSupported", told)


@dataclass(slots=True)
class Head:
    """One request before its body.

    Attributes:
        target: as sent, e.g. ``/health?a=b`` or ``http://host/health``.
        headers: names in lower case, in their order.
        length: bytes of the body; None: chunked.
        keep_alive: the client would send another request on this connection.
        waits: the client sends its body when it is told to (``Expect: 100-continue``).
    """

    method: str = ""
    target: bytes = b""
    version: str = "1.1"
    headers: Headers = field(default_factory=list)
    length: int | None = 0
    keep_alive: bool = True
    waits: bool = False

    @property
    def path(self) -> bytes:
        """Path and query. Raises Refused (400)."""
        if self.target.startswith(b"/") or (self.target == b"*" and self.method == "OPTIONS"):
            return self.target
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserError:
            url = None
        if url is None or not url.schema or not url.host:
            raise bad_request("its target is neither a path nor an address")
        return (url.path or b"/") + (b"?" + url.query if url.query else b"")


class HeadReader:
    """Cuts heads from the bytes of a connection.

    Args:
        most_bytes: of a head, its last empty line included.

    Attributes:
        begun: bytes of a head are here, its end is not.
    """

    __slots__ = ("_most_bytes", "_most_headers", "_searched")

    def __init__(self, most_bytes: int, most_headers: int) -> None:
        self._most_bytes = most_bytes
        self._most_headers = most_headers
        self._searched = 0

    @property
    def begun(self) -> bool:
        return self._searched > 0

    def take(self, data: bytearray) -> Head | None:
        """One head from the front of ``data``, if it is whole.

        Raises:
            Refused: as soon as nothing that may follow could make it a head that is answered.
        """
        while data.startswith(b"\r\n"):  # RFC 9112 2.2
            del data[:2]
        end = data.find(_END, self._searched, self._most_bytes)
        if end < 0:
            if len(data) >= self._most_bytes:
                raise self._too_large(data)
            if data and not 65 <= data[0] <= 90 and data != b"\r":
                raise bad_request("it does not begin with a method")
            if has_stray_line_end(data, self._searched):
                raise bad_request("a line of its head does not end in CR LF")
            if data:
                self._searched = max(1, len(data) - 3)
            return None
        head = bytes(data[: end + 4])
        del data[: end + 4]
        self._searched = 0
        return read_head(head, self._most_headers)

    def _too_large(self, data: bytearray) -> Refused:
        most = self._most_bytes
        if data.find(b"\r\n", 0, most) < 0:
            told = f"The request line is longer than {most} bytes (EMBEDSERVE_MAX_HEADER_BYTES)."
            return Refused(414, "UriTooLong", told)
        told = f"The headers are longer than {most} bytes; send less, or raise EMBEDSERVE_MAX_HEADER_BYTES."
        return Refused(431, "HeadersTooLarge", told)


class _Callbacks:
    """Callbacks of the parser."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def read_head(data: bytes, most_headers: int) -> Head:
    """``data``: exactly one head, with the empty line that ends it.

    Raises:
        Refused: 400, 405, 417, 431; never 5xx, which proxies take for a server that is ill.
    """
    if has_stray_line_end(data) or b"\r\n " in data or b"\r\n\t" in data or b"\0" in data:
        raise bad_request("a line of its head does not end in CR LF, is folded, or holds a NUL")
    if data.count(b"\n") - 2 > most_headers:
        raise Refused(
            431,
            "HeadersTooLarge",
            f"More than {most_headers} headers; send fewer, or raise EMBEDSERVE_MAX_HEADERS.",
        )
    if data.startswith(b"PRI * "):
        raise _other_version("2")
    head = Head()
    reader = _Callbacks(head)
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110 7.8: a server may ignore it, and the body is a body all the same
    except httptools.HttpParserInvalidMethodError:
        raise Refused(405, "MethodNotAllowed", "This request method is not known here.") from None
    except httptools.HttpParserError as error:
        raise bad_request(str(error) or "it cannot be read") from None
    if not reader.complete:
        raise bad_request("its head has no end")
    head.method = parser.get_method().decode("ascii")
    head.version = parser.get_http_version()
    if head.version not in ("1.1", "1.0"):
        raise _other_version(head.version)
    if head.method == "CONNECT":
        raise Refused(405, "MethodNotAllowed", "CONNECT: this server is no proxy.")
    _frame(head)
    return head


def _frame(head: Head) -> None:
    """Where the body ends, and what happens then (RFC 9112 6.3, 9.3)."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    hosts = 0
    modern = head.version == "1.1"
    head.keep_alive = modern
    for name, value in head.headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value.lower())
        elif name == b"host":
            hosts += 1
        elif name == b"connection":
            if b"close" in value.lower():
                head.keep_alive = False
        elif name == b"expect" and modern:
            if value.lower() != b"100-continue":
                raise Refused(417, "ExpectationFailed", "Expect: only 100-continue is understood.")
            head.waits = True
    if hosts > 1 or (modern and not hosts):
        raise bad_request("it should have exactly one Host header")
    if codings:
        if lengths or not modern:
            raise bad_request("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
        if codings != [b"chunked"]:
            raise bad_request("of Transfer-Encoding only chunked is understood")
        head.length = None
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise bad_request("Content-Length should be one number of bytes")
        head.length = int(lengths[0])
