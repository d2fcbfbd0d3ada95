"""The scheduler as the service sees it: ``await encode(windows)``.

The queue (:mod:`.batcher`), admission and cache are plain objects under one lock. The event loop puts
requests in and takes vectors out; the worker thread fetches chunks. Nobody holds the lock for longer than
the bookkeeping of one request or one chunk, some ten microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Window
from embedserve.errors import EmbedserveError
from embedserve.scheduling.batcher import Batcher, Lane, Request, Unit
from embedserve.scheduling.cache import VectorCache, window_key
from embedserve.scheduling.memory import Admission, Hold, chunk_bytes, predict_bytes
from embedserve.scheduling.pace import Pace
from embedserve.scheduling.worker import Row, Worker

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting(Request[Window]):
    """A request whose vectors a task waits for."""

    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    future: asyncio.Future[None] | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A moment's figures; counters count from the start."""

    queued_tokens: dict[Lane, int]
    """By lane; distinct windows only, long windows weighed by what attention costs them."""
    requests_waiting: int
    windows_running: int
    chunks: int
    windows: int
    """Distinct windows computed."""
    windows_shared: int
    """Windows that were waiting or running for somebody already."""
    windows_failed: int
    busy_seconds: float
    chunk_tokens: int
    tokens_per_second: float
    held_bytes: int
    limit_bytes: int
    refused: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    cache_entries: int


class Scheduler:
    """Keeps one backbone full without making a short request wait for a long one.

    Args:
        backbone: runs in a thread of its own, one call at a time.
        chunk_tokens: tokens that one call gets at most. Below this bound the size follows the measured
            rate, so that a call takes about ``chunk_seconds``: that is how long a query may find the
            backbone busy.
        memory_limit: bytes for accepted requests and the backbone's working memory of one chunk.
        max_bulk_age: seconds that bulk work goes without a chunk at most when queries never let up.
        cache_bytes: bytes for vectors of windows seen before; 0 is no cache.
        chunk_seconds: see ``chunk_tokens``.
        calm_seconds: what a call may take when no query came for a second (see :mod:`.batcher`).
        admission: shared with other schedulers; its own over ``memory_limit`` when omitted.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        chunk_tokens: int = 4096,
        memory_limit: int = 128 << 20,
        max_bulk_age: float = 1.0,
        cache_bytes: int = 0,
        chunk_seconds: float = 0.03,
        calm_seconds: float = 0.09,
        admission: Admission | None = None,
    ) -> None:
        self.backbone = backbone
        chunk = chunk_bytes(chunk_tokens, backbone.window_size, backbone.hidden_size)
        if admission is None and memory_limit <= chunk:
            raise ValueError(
                f"memory limit of {memory_limit} bytes leaves no room for requests: a chunk of "
                f"{chunk_tokens} tokens takes {chunk}. Raise the memory limit or lower the chunk size."
            )
        self._pace = Pace(
            chunk_seconds=chunk_seconds,
            calm_seconds=max(calm_seconds, chunk_seconds),
            max_chunk=chunk_tokens,
        )
        # A quantum of several windows: with less, whoever waits for a turn of a whole window falls behind
        # virtual time, and what is short but no query would have to let all of those go first.
        longest = window_cost(backbone.window_size, backbone.hidden_size)
        self._batcher: Batcher[Window] = Batcher(
            budget=self._pace.chunk,
            calm_budget=self._pace.calm_chunk,
            quantum=2 * longest,
            max_bulk_age=max_bulk_age,
        )
        self.admission = admission or Admission(memory_limit - chunk, self._retry_after)
        self._cache = VectorCache(cache_bytes)
        self._worker = Worker(backbone, self._batcher.next_chunk, self._hand_over)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[_Waiting] = set()
        self._accepting = False
        self._idle = asyncio.Event()
        self._chunks = self._windows = self._shared = self._failed = 0
        self._busy = 0.0

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepting = True
        self._worker.start()

    async def close(self, drain: bool = True) -> None:
        """Accept nothing more; finish what was accepted, or fail it with 503; end the thread. Idempotent."""
        self._accepting = False
        if drain:
            while self._open:
                self._idle.clear()
                await self._idle.wait()
        for request in list(self._open):
            request.error = _closed()
            self._withdraw(request)
            self._settle([request])
        await asyncio.to_thread(self._worker.stop)

    async def encode(
        self,
        windows: Sequence[Window],
        *,
        lane: Lane = "interactive",
        owner: str = "",
        hold: Hold | None = None,
    ) -> Floats:
        """Vectors of the windows, (n, hidden) float32 in their order, not normalised.

        Cancelling the task that waits withdraws what has not run.

        Args:
            hold: covers these windows already; otherwise they are admitted here.

        Raises:
            EmbedserveError: 503 or 429 with ``retry_after`` when the queue is full, 503 when closing, 500
                when the backbone failed on one of the windows.
        """
        if not self._accepting or self._loop is None:
            raise _closed()
        request = _Waiting(
            lane, owner, vectors=np.empty((len(windows), self.backbone.hidden_size), np.float32)
        )
        keys = [window_key(window) for window in windows]
        costs = [window_cost(len(window.ids), self.backbone.hidden_size) for window in windows]
        own = None if hold else self.admission.hold(lane=lane, owner=owner)
        with self._worker.lock:
            missing = self._fill_from_cache(keys, request.vectors)
            if not missing:
                return request.vectors
            if own:
                own.grow(predict_bytes(windows, self.backbone.hidden_size))
            self._open.add(request)
            request.future = self._loop.create_future()
            self._shared += self._batcher.add(
                request,
                [windows[i] for i in missing],
                [costs[i] for i in missing],
                [keys[i] for i in missing],
                time.monotonic(),
                missing,
            )
            self._worker.lock.notify()
        try:
            await request.future
        finally:
            self._open.discard(request)
            with self._worker.lock:
                if request.open:
                    self._batcher.withdraw(request)
            if own:
                own.close()
            if not self._open:
                self._idle.set()
        return request.vectors

    def forecast_wait(self, windows: Sequence[Window], owner: str, *, enough: float) -> float:
        """Seconds that an interactive request of these windows would wait for others.

        Args:
            enough: the answer needs to be exact above this only, so that it costs nothing most of the time.
        """
        with self._worker.lock:
            wait = self._pace.seconds_for(self._batcher.queued["interactive"])
            if wait > enough:
                cost = sum(window_cost(len(window.ids), self.backbone.hidden_size) for window in windows)
                wait = min(wait, self._pace.seconds_for(self._batcher.ahead_of(owner, cost)))
        return wait

    @property
    def stats(self) -> SchedulerStats:
        with self._worker.lock:
            return SchedulerStats(
                queued_tokens={lane: round(cost) for lane, cost in self._batcher.queued.items()},
                requests_waiting=len(self._open),
                windows_running=self._worker.running,
                chunks=self._chunks,
                windows=self._windows,
                windows_shared=self._shared,
                windows_failed=self._failed,
                busy_seconds=self._busy,
                chunk_tokens=self._pace.chunk,
                tokens_per_second=self._pace.rate,
                held_bytes=self.admission.held_bytes,
                limit_bytes=self.admission.limit_bytes,
                refused=self.admission.refused,
                cache_hits=self._cache.hits,
                cache_misses=self._cache.misses,
                cache_bytes=self._cache.used_bytes,
                cache_entries=len(self._cache),
            )

    def _fill_from_cache(self, keys: Sequence[bytes], vectors: Floats) -> list[int]:
        """Fill the rows that are known; the numbers of the others."""
        missing = []
        for i, key in enumerate(keys):
            row = self._cache.get(key)
            if row is None:
                missing.append(i)
            else:
                vectors[i] = row
        return missing

    def _retry_after(self, lane: Lane) -> float:
        """Whole seconds until half of what stands before a new request of this lane has run."""
        queued = self._batcher.queued
        ahead = queued["interactive"] + (queued["bulk"] if lane == "bulk" else 0)
        return float(max(1, math.ceil(self._pace.seconds_for(ahead) / 2)))

    def _withdraw(self, request: _Waiting) -> None:
        with self._worker.lock:
            self._batcher.withdraw(request)

    def _hand_over(self, chunk: list[Unit[Window]], rows: list[Row], seconds: float) -> None:
        """In the worker's thread: write the vectors to their places, wake those who have all."""
        done: list[Request[Window]] = []
        with self._worker.lock:
            self._batcher.finish(chunk)
            cost = sum(unit.cost for unit in chunk)
            self._chunks += 1
            self._windows += len(chunk)
            self._busy += seconds
            self._pace.note(cost, seconds)
            self._batcher.budget, self._batcher.calm_budget = self._pace.chunk, self._pace.calm_chunk
            for unit, row in zip(chunk, rows, strict=True):
                if isinstance(row, Exception):
                    self._failed += 1
                else:
                    self._cache.put(unit.key, row)
                for request, place in unit.seats:
                    assert isinstance(request, _Waiting)
                    request.open -= 1
                    if isinstance(row, Exception):
                        if request.error is None:
                            request.error = _failed(row)
                            self._batcher.withdraw(request)
                            done.append(request)
                    elif not request.withdrawn:
                        request.vectors[place] = row
                        if not request.open:
                            done.append(request)
        if done and self._loop is not None:
            self._loop.call_soon_threadsafe(self._settle, done)

    def _settle(self, requests: Sequence[Request[Window]]) -> None:
        for request in requests:
            assert isinstance(request, _Waiting)
            future = request.future
            if future is None or future.done():
                continue
            if request.error is None:
                future.set_result(None)
            else:
                future.set_exception(request.error)


def window_cost(tokens: int, hidden_size: int) -> int:
    """What a window costs, in tokens of a short window.

    Linear layers cost the same for each token (24 h² operations a layer), attention 4 n h more, at two thirds
    of their speed: n / 4h on top (measured on the bundled model: a third more a token at 512 than at 36).
    """
    return tokens + math.ceil(tokens * tokens / (4 * hidden_size))


def _failed(cause: Exception) -> EmbedserveError:
    if isinstance(cause, EmbedserveError):
        return cause
    error = EmbedserveError(
        "An internal error has occured, please try again later or contact service support.",
        status=500,
        code="InternalError.Algo",
        openai_code="internal_error",
    )
    error.__cause__ = cause
    return error


def _closed() -> EmbedserveError:
    return EmbedserveError(
        "Model is unavailable, please try again later.", status=503, code="ModelUnavailable", retry_after=1.0
    )
