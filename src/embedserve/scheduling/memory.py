"""Admission: whatever grows with what callers send is reserved before it is there.

The engine's own working memory does not grow with the queue: a chunk is bounded, so its activations are
reserved once. What grows is what each request holds: its body while it comes in, what is read from it, its
windows and vectors, and its reply until the caller has taken it. One :class:`Hold` a request counts all that.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Self

from embedserve.embedding.backbones.base import Window
from embedserve.errors import EmbedserveError
from embedserve.scheduling.batcher import Lane

_REQUEST_OVERHEAD: Final = 16_000
"""Bytes that a small request takes, rounded up: its connection, task, body, text and headers."""
_WINDOW_OVERHEAD: Final = 1_000
"""Bytes of Python objects that one window is held by, rounded up."""
_TOKEN_BYTES: Final = 8
"""An int32 id and a float32 weight."""
_SMALL: Final = 2**20
"""Bytes that a small request holds at most."""


def predict_bytes(windows: Sequence[Window], hidden_size: int) -> int:
    """Bytes that a request holds from admission until its vectors are handed over."""
    tokens = sum(len(window.ids) for window in windows)
    return _REQUEST_OVERHEAD + len(windows) * (_WINDOW_OVERHEAD + 4 * hidden_size) + tokens * _TOKEN_BYTES


def chunk_bytes(tokens: int, longest: int, hidden_size: int) -> int:
    """Working memory of one chunk in the engine, generously.

    Per token: hidden states, residual, queries, keys and values in float32 and their quantised copies,
    about 24 bytes a hidden unit; and an attention matrix of the longest window for each of a few threads.
    """
    return 24 * hidden_size * max(tokens, longest) + 4 * 4 * longest * longest


class Hold:
    """What one request holds of the memory, from the first byte of its body to the last of its reply.

    It grows as more becomes known, from any thread. A context manager; closing it gives everything back.
    """

    __slots__ = ("_admission", "_closed", "lane", "owner", "peak", "size")

    def __init__(self, admission: Admission, lane: Lane, owner: str) -> None:
        self.lane = lane
        self.owner = owner
        self.size = self.peak = 0
        self._admission = admission
        self._closed = False

    def grow(self, extra: int) -> None:
        """Reserve more. Raises EmbedserveError like :meth:`Admission.check`, or once it is closed."""
        with self._admission.lock:
            if self._closed:  # a thread goes on for a caller who has left
                raise EmbedserveError("The caller has left.", status=499, code="ClientClosedRequest")
            self._admission.check(self, extra)
            self._admission.change(self, extra)

    def check(self, extra: int) -> None:
        """Raise what :meth:`grow` would, and reserve nothing."""
        with self._admission.lock:
            self._admission.check(self, extra)

    def shrink(self, size: int) -> None:
        """Give a part back."""
        with self._admission.lock:
            if not self._closed:
                self._admission.change(self, -size)

    def close(self) -> None:
        """Give everything back. Idempotent."""
        with self._admission.lock:
            self._closed = True
            if self.size:
                self._admission.change(self, -self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Admission:
    """Who may hold memory.

    An owner may hold as many bytes as are still free for all (so however much one asks for, the next finds
    room), and bulk work at most half of everything (so it never shuts queries out). Large requests leave an
    eighth to small ones, and an owner's small requests are not held against his large ones: a query passes
    while the same key has its corpus embedded.

    Args:
        limit_bytes: bytes that all requests together may hold.
        retry_after: seconds after which one that was refused may find room.
    """

    def __init__(self, limit_bytes: int, retry_after: Callable[[Lane], float] = lambda lane: 1.0) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.refused = 0
        self.lock = threading.Lock()
        self._retry_after = retry_after
        self._small = min(_SMALL, limit_bytes // 64)
        self._by_owner: Counter[tuple[str, bool]] = Counter()
        """By owner and size: of large requests, and of small ones."""
        self._bulk_bytes = 0

    def hold(self, *, lane: Lane = "interactive", owner: str = "") -> Hold:
        """An empty hold."""
        return Hold(self, lane, owner)

    def check(self, hold: Hold, extra: int) -> None:
        """Whether a hold may grow by ``extra`` bytes; the caller has the lock.

        Raises:
            EmbedserveError: 400 if it cannot fit even alone, 503 (interactive) or 429 (bulk) with
                ``retry_after`` seconds if it does not fit now.
        """
        size = hold.size + extra
        large = size > self._small
        most = self.limit_bytes - self.limit_bytes // 8 if large else self.limit_bytes
        ceiling = self.limit_bytes // 2 if hold.lane == "bulk" else most
        if size > ceiling:
            self.refused += 1
            raise EmbedserveError(
                f"Payload Too Large: the request needs {size} bytes of memory while it runs, {ceiling} are "
                "set aside. Send fewer or shorter texts, or raise the server's EMBEDSERVE_MEMORY_LIMIT_MB.",
                code="BadRequest.TooLarge",
            )
        free = most - self.held_bytes + hold.size
        others = self._by_owner[hold.owner, large]
        if large is (hold.size > self._small):
            others -= hold.size
        fits = size <= free and (others == 0 or others + size <= free)
        if hold.lane == "bulk":
            fits = fits and self._bulk_bytes + extra <= ceiling
        if not fits:
            self.refused += 1
            raise throttled(hold.lane, self._retry_after(hold.lane))

    def change(self, hold: Hold, extra: int) -> None:
        """Note that a hold grew, or shrank; the caller has the lock."""
        self._count(hold, -hold.size)
        hold.size += extra
        hold.peak = max(hold.peak, hold.size)
        self._count(hold, hold.size)
        self.held_bytes += extra
        if hold.lane == "bulk":
            self._bulk_bytes += extra

    def _count(self, hold: Hold, size: int) -> None:
        key = hold.owner, hold.size > self._small
        self._by_owner[key] += size
        if not self._by_owner[key]:
            del self._by_owner[key]


def throttled(lane: Lane, retry_after: float) -> EmbedserveError:
    """Not now: there is no room for it."""
    if lane == "bulk":
        return EmbedserveError(
            "Too many requests. Batch requests are being throttled due to system capacity limits. "
            "Please try again later.",
            status=429,
            code="Throttling.AllocationQuota",
            openai_code="insufficient_quota",
            retry_after=retry_after,
        )
    return EmbedserveError(
        "Too many requests. Your requests are being throttled due to system capacity limits. "
        "Please try again later.",
        status=503,
        code="ModelServingError",
        retry_after=retry_after,
    )
