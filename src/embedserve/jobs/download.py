"""Fetching an allowed URL to a file, and telling a callback: small, bounded, and to the pinned address."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin

from embedserve.errors import EmbedserveError
from embedserve.jobs.guard import Target, UrlGuard, refused

MAX_REDIRECTS = 5
IDLE_SECONDS = 20.0
"""Longest silence of the other side."""
TOTAL_SECONDS = 600.0
"""Longest time for a whole file."""
_CHUNK = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)


class _PinnedHTTP(http.client.HTTPConnection):
    """Connects to the checked address; the name is only in the Host header."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._address = target.address

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)


class _PinnedHTTPS(_PinnedHTTP):
    """The same under TLS; the certificate is checked against the name."""

    default_port = 443

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


@contextmanager
def _exchange(
    target: Target, method: str, body: bytes | None, headers: dict[str, str], timeout: float, until: float
) -> Iterator[http.client.HTTPResponse]:
    """One request; ``timeout`` bounds each silence, ``until`` (monotonic) the whole."""
    kind = _PinnedHTTPS if target.url.scheme == "https" else _PinnedHTTP
    connection = kind(target, timeout)
    end = threading.Timer(max(0.0, until - time.monotonic()), _cut, [connection])
    end.daemon = True
    end.start()
    try:
        connection.request(method, target.path, body, {"User-Agent": "embedserve", **headers})
        yield connection.getresponse()
    except TimeoutError:
        raise refused(f"The host {target.host} did not answer in time.", "InvalidURL.Timeout") from None
    except (OSError, http.client.HTTPException):
        if time.monotonic() >= until:
            raise refused(f"The host {target.host} took too long.", "InvalidURL.Timeout") from None
        raise refused(f"Cannot fetch from {target.host}.", "InvalidURL.ConnectionRefused") from None
    finally:
        end.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    """Wake whoever waits for the other side, be it for a header that comes a byte at a time."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def download(
    url: str,
    path: Path,
    guard: UrlGuard,
    *,
    limit: int,
    keep_going: Callable[[], bool] = lambda: True,
    seconds: float = TOTAL_SECONDS,
    idle: float = IDLE_SECONDS,
) -> int:
    """Fetch ``url`` into ``path``; the number of bytes.

    Every redirect goes through the guard again. The body is taken as it is (no content coding is asked for).

    Args:
        limit: bytes at most.
        keep_going: asked now and then; false stops.

    Raises:
        EmbedserveError: not allowed, not reachable, not 200, too large or too slow.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        target = guard.admit(url)
        with _exchange(target, "GET", None, {"Accept-Encoding": "identity"}, idle, deadline) as response:
            location = response.getheader("location")
            if response.status in _REDIRECTS and location:
                url = urljoin(url, location)
                continue
            if response.status != 200:
                raise _failed(f"{target.host} answered with status {response.status}.")
            if (response.getheader("content-encoding") or "identity").lower() != "identity":
                raise _failed(f"{target.host} sent a compressed body: offer the plain file.")
            return _store(response, path, limit, deadline, keep_going)
    raise _failed(f"More than {MAX_REDIRECTS} redirects.")


def _store(
    response: http.client.HTTPResponse,
    path: Path,
    limit: int,
    deadline: float,
    keep_going: Callable[[], bool],
) -> int:
    size = 0
    with path.open("wb") as file:
        while block := response.read1(_CHUNK):
            size += len(block)
            if size > limit:
                raise EmbedserveError(
                    f"The file behind the url is over {limit} bytes: split it.", code="BadRequest.TooLarge"
                )
            if time.monotonic() > deadline:
                raise refused("The file behind the url took too long.", "InvalidURL.Timeout")
            if not keep_going():
                raise _failed("The task was given up.")
            file.write(block)
    if time.monotonic() > deadline:
        raise refused("The file behind the url took too long.", "InvalidURL.Timeout")
    if response.length:
        raise _failed("The connection broke off before the end of the file.")
    return size


def notify(url: str, body: bytes, guard: UrlGuard, *, seconds: float = 10.0) -> bool:
    """POST JSON to a callback; true if it answered 2xx. Redirects are not followed."""
    target, until = guard.admit(url), time.monotonic() + seconds
    headers = {"Content-Type": "application/json"}
    with _exchange(target, "POST", body, headers, seconds, until) as response:
        return 200 <= response.status < 300


def _failed(message: str) -> EmbedserveError:
    return EmbedserveError(message, code="BadRequest.InputDownloadFailed")
