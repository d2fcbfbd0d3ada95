"""Admission: a request is taken only if the bytes it will hold while it waits and runs are there.

The engine's own working memory does not grow with the queue: a chunk is bounded, so its activations are
reserved once. What grows is what each accepted request holds until it is answered, and that can be told
exactly enough beforehand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from embedserve.embedding.backbones.base import Window
from embedserve.errors import EmbedserveError
from embedserve.scheduling.batcher import Lane

_REQUEST_OVERHEAD: Final = 2_000
_WINDOW_OVERHEAD: Final = 1_000
"""Bytes of Python objects that one request and one window are held by, rounded up."""
_TOKEN_BYTES: Final = 8
"""An int32 id and a float32 weight."""


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


class Admission:
    """Who may enter the queue.

    An owner may hold as many bytes as are still free for all (so however much one asks for, the next finds
    room), and bulk work at most half of everything (so it never shuts queries out).

    Args:
        limit_bytes: bytes that all accepted requests together may hold.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.refused = 0
        self._by_owner: Counter[str] = Counter()
        self._bulk_bytes = 0

    def admit(self, size: int, *, lane: Lane, owner: str, retry_after: float) -> None:
        """Reserve ``size`` bytes.

        Raises:
            EmbedserveError: 400 if the request cannot fit even alone, 503 (interactive) or 429 (bulk) with
                ``retry_after`` seconds if it does not fit now.
        """
        ceiling = self.limit_bytes // 2 if lane == "bulk" else self.limit_bytes
        if size > ceiling:
            self.refused += 1
            raise EmbedserveError(
                f"Payload Too Large: the request needs {size} bytes of memory while it runs, "
                f"{ceiling} are set aside. Send fewer or shorter texts, or raise the server's memory limit.",
                code="BadRequest.TooLarge",
            )
        free = self.limit_bytes - self.held_bytes
        mine = self._by_owner[owner]
        fits = size <= free and (mine == 0 or mine + size <= free)
        if lane == "bulk":
            fits = fits and self._bulk_bytes + size <= ceiling
        if not fits:
            self.refused += 1
            raise _throttled(lane, retry_after)
        self.held_bytes += size
        self._by_owner[owner] += size
        if lane == "bulk":
            self._bulk_bytes += size

    def release(self, size: int, *, lane: Lane, owner: str) -> None:
        """Give back what :meth:`admit` reserved."""
        self.held_bytes -= size
        self._by_owner[owner] -= size
        if not self._by_owner[owner]:
            del self._by_owner[owner]
        if lane == "bulk":
            self._bulk_bytes -= size


def _throttled(lane: Lane, retry_after: float) -> EmbedserveError:
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
