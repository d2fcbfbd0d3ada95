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
from embedserve.jobs.errors import GivenUpError
from embedserve.jobs.guard import Target, UrlGuard, refused

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 20.0
"""Longest silence of the other side."""
TOTAL_SECONDS = 600.0
"""Longest time for a whole file."""
_CHUNK = 256 * 1024
_STEP = 2**20
"""Bytes that are asked for ahead, where the other side does not say how many come."""
_LOOK_SECONDS = 0.25
_REDIRECTS = (301, 302, 303, 307, 308)


class _PinnedHTTP(http.client.HTTPConnection):
    """Connects to the checked address; the name is only in the Host header."""

    wire: socket.socket | None = None
    """Kept, as ``sock`` is forgotten when an answer has begun that ends with the connection."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._address, self._idle = target.address, timeout

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), min(self._idle, CONNECT_SECONDS))
        self.sock.settimeout(self._idle)
        self.wire = self.sock


class _PinnedHTTPS(_PinnedHTTP):
    """The same under TLS; the certificate is checked against the name."""

    default_port = 443

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = self.wire = context.wrap_socket(self.sock, server_hostname=self.host)


class _Watch:
    """An end to an exchange from outside: at a time, or when it is no longer wanted."""

    def __init__(self, target: Target, until: float, keep_going: Callable[[], bool]) -> None:
        self._target, self._until, self._keep_going = target, until, keep_going

    @property
    def late(self) -> bool:
        return time.monotonic() >= self._until

    @contextmanager
    def over(self, connection: _PinnedHTTP) -> Iterator[None]:
        """Wake whoever waits for the other side, be it for a header that comes a byte at a time."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(_LOOK_SECONDS if not self.late else 0.0):
                if (self.late or not self._keep_going()) and connection.wire is not None:
                    with suppress(OSError):
                        connection.wire.shutdown(socket.SHUT_RDWR)
                    return

        threading.Thread(target=look, name="embedserve-watch", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    @contextmanager
    def words(self) -> Iterator[None]:
        """What goes wrong between the two sides, as the caller reads it. Only calls to the other side belong
        in here: an error of our own disk is none of these."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not self._keep_going():
                raise GivenUpError from None
            host = self._target.host
            if self.late:
                raise refused(f"The host {host} took too long.", "InvalidURL.Timeout") from None
            if isinstance(error, TimeoutError):
                raise refused(f"The host {host} did not answer in time.", "InvalidURL.Timeout") from None
            raise refused(f"Cannot fetch from {host}.", "InvalidURL.ConnectionRefused") from None


@contextmanager
def _exchange(
    target: Target, method: str, body: bytes | None, headers: dict[str, str], idle: float, watch: _Watch
) -> Iterator[http.client.HTTPResponse]:
    """One request; ``idle`` bounds each silence, ``watch`` the whole."""
    kind = _PinnedHTTPS if target.url.scheme == "https" else _PinnedHTTP
    with watch.words():
        connection = kind(target, idle)
    try:
        with watch.over(connection):
            with watch.words():
                connection.request(method, target.path, body, {"User-Agent": "embedserve", **headers})
                response = connection.getresponse()
            yield response
    finally:
        connection.close()


def download(
    url: str,
    path: Path,
    guard: UrlGuard,
    *,
    limit: int,
    keep_going: Callable[[], bool] = lambda: True,
    hold: Callable[[int], None] = lambda size: None,
    seconds: float = TOTAL_SECONDS,
    idle: float = IDLE_SECONDS,
) -> int:
    """Fetch ``url`` into ``path``; the number of bytes.

    Every redirect goes through the guard again. The body is taken as it is (no content coding is asked for).

    Args:
        limit: bytes at most.
        keep_going: asked now and then; false stops.
        hold: called before the file grows beyond what was held so far, with the bytes it may have then;
            raises what ends the fetch where there is no room.

    Raises:
        EmbedserveError: not allowed, not reachable, not 200, too large or too slow.
        GivenUpError: ``keep_going`` said no.
        OSError: of our own disk.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        target = guard.admit(url)
        watch = _Watch(target, deadline, keep_going)
        with _exchange(target, "GET", None, {"Accept-Encoding": "identity"}, idle, watch) as response:
            location = response.getheader("location")
            if response.status in _REDIRECTS and location:
                url = _follow(url, location)
                continue
            if response.status != 200:
                raise _failed(f"{target.host} answered with status {response.status}.")
            if (response.getheader("content-encoding") or "identity").lower() != "identity":
                raise _failed(f"{target.host} sent a compressed body: offer the plain file.")
            return _store(response, path, limit, watch, keep_going, hold)
    raise _failed(f"More than {MAX_REDIRECTS} redirects.")


def _follow(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise refused("The url leads to another that is malformed.") from None


def _store(
    response: http.client.HTTPResponse,
    path: Path,
    limit: int,
    watch: _Watch,
    keep_going: Callable[[], bool],
    hold: Callable[[int], None],
) -> int:
    size, held, announced = 0, 0, response.length
    with path.open("wb") as file:
        while block := _read(response, watch):
            size += len(block)
            if size > limit or (announced or 0) > limit:
                raise EmbedserveError(
                    f"The file behind the url is over {limit} bytes: split it.", code="BadRequest.TooLarge"
                )
            if watch.late:
                raise refused("The file behind the url took too long.", "InvalidURL.Timeout")
            if not keep_going():
                raise GivenUpError
            if size > held:
                held = max(size, announced or min(size + _STEP, limit))
                hold(held)
            file.write(block)
    if not keep_going():
        raise GivenUpError
    if watch.late:
        raise refused("The file behind the url took too long.", "InvalidURL.Timeout")
    if response.length:
        raise _failed("The connection broke off before the end of the file.")
    return size


def _read(response: http.client.HTTPResponse, watch: _Watch) -> bytes:
    with watch.words():
        return response.read1(_CHUNK)


def notify(
    url: str,
    body: bytes,
    guard: UrlGuard,
    *,
    keep_going: Callable[[], bool] = lambda: True,
    seconds: float = 10.0,
) -> bool:
    """POST JSON to a callback; true if it answered 2xx. Redirects are not followed.

    Raises:
        EmbedserveError: not allowed, or not reachable.
        GivenUpError: ``keep_going`` said no.
    """
    target = guard.admit(url)
    watch = _Watch(target, time.monotonic() + seconds, keep_going)
    headers = {"Content-Type": "application/json"}
    with _exchange(target, "POST", body, headers, seconds, watch) as response:
        return 200 <= response.status < 300


def _failed(message: str) -> EmbedserveError:
    return EmbedserveError(message, code="BadRequest.InputDownloadFailed")
