"""Vectors from another server: vLLM, Text Embeddings Inference, or anything with OpenAI's ``/embeddings``.

A window of this backbone holds the code points of a prompted text instead of vocabulary ids, so that queues
and caches in front of it work as for every other backbone. Failures of the other side are retried with
growing pauses; when they go on, calls fail at once for a while instead of piling up.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.errors import EmbedserveError, ModelLoadError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class Breaker:
    """Refuses calls for ``rest`` seconds after ``limit`` failures in a row, then lets a single one try.

    Args:
        clock: seconds, for tests.
    """

    def __init__(
        self, limit: int = 5, rest: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._rest, self._clock = limit, rest, clock
        self._failures = 0
        self._open_until = 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises EmbedserveError (503 with ``retry_after``) while the circuit is open."""
        with self._lock:
            left = self._open_until - self._clock()
            if self._failures < self._limit:
                return
            if left > 0:
                raise _unavailable(f"did not answer {self._failures} times in a row", left)
            self._open_until = self._clock() + self._rest  # this caller tries, the others wait

    def record(self, ok: bool) -> None:
        with self._lock:
            self._failures = 0 if ok else self._failures + 1
            if not ok and self._failures >= self._limit:
                self._open_until = self._clock() + self._rest


def _unavailable(why: str, retry_after: float) -> EmbedserveError:
    return EmbedserveError(
        f"the remote engine {why}: try again later",
        status=503,
        code="ModelUnavailable",
        openai_code="model_unavailable",
        retry_after=max(1.0, retry_after),
    )


class RemoteBackbone:
    """See :class:`embedserve.embedding.backbones.base.Backbone`.

    Args:
        url: up to and with ``/v1``; ``/embeddings`` is appended.
        model: the name that the other server knows its model by.
        api_key: sent as a bearer token.
        batch: texts a call; halved for servers that refuse so many.
        parallel: calls at a time.
        timeout: seconds a call may take.
        attempts: tries a call, the first included.

    Raises:
        ModelLoadError: httpx is not installed, or the server cannot be used.
    """

    window_size = 1 << 16
    """Code points, see the module."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        batch: int = 32,
        parallel: int = 4,
        timeout: float = 60.0,
        attempts: int = 4,
        breaker: Breaker | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ModelLoadError(
                "a remote engine needs httpx: run `pip install 'embedserve[remote]'`"
            ) from error
        self.url, self.model = url.rstrip("/"), model
        self.name = f"remote:{self.model}"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport_error: type[Exception] = httpx.TransportError
        self._client: Any = httpx.Client(headers=headers, timeout=timeout)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="embedserve-remote")
        self._batch, self._attempts = batch, attempts
        self._breaker = breaker or Breaker()
        self.hidden_size = 0
        try:
            self.hidden_size = len(self._call(["size"])[0])
        except EmbedserveError as error:
            self.close()
            raise ModelLoadError(f"{self.url} cannot serve {model!r}: {error.message}") from error

    def encode(self, windows: Sequence[Window]) -> Floats:
        texts = [read_text(window) for window in windows]
        groups = [texts[at : at + self._batch] for at in range(0, len(texts), self._batch)]
        parts = list(self._threads.map(self._call, groups))
        return np.concatenate(parts) if parts else np.empty((0, self.hidden_size), np.float32)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._client.close()

    def _call(self, texts: list[str]) -> Floats:
        """(len(texts), hidden_size) vectors, in order; retried, and cut in two where a batch is too large."""
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        why, pause = "", 0.0
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(max(pause, min(8.0, 0.25 * 2**attempt) * random.uniform(0.5, 1.0)))
            self._breaker.check()
            try:
                reply = self._client.post(f"{self.url}/embeddings", json=body)
            except self._transport_error as error:
                self._breaker.record(ok=False)
                why, pause = f"cannot be reached ({type(error).__name__})", 0.0
                continue
            if reply.status_code in RETRIED:
                self._breaker.record(ok=reply.status_code == 429)  # busy is not broken
                why, pause = f"answered {reply.status_code}", read_pause(reply.headers.get("retry-after"))
                continue
            self._breaker.record(ok=True)
            if reply.status_code in (400, 413, 422) and len(texts) > 1:
                self._batch = max(1, min(self._batch, len(texts) // 2))
                middle = len(texts) // 2
                return np.concatenate([self._call(texts[:middle]), self._call(texts[middle:])])
            if reply.status_code != 200:
                raise EmbedserveError(
                    f"the remote engine refused with status {reply.status_code}: {reply.text[:200]!r}",
                    status=502,
                    code="ModelUnavailable",
                    openai_code="model_unavailable",
                )
            return self._read(reply.content, len(texts))
        raise _unavailable(f"{why} in {self._attempts} tries", max(pause, 5.0))

    def _read(self, content: bytes, count: int) -> Floats:
        try:
            body = orjson.loads(content)
            items = sorted(body["data"], key=lambda item: item["index"])
            indices = [item["index"] for item in items]
            rows = np.stack([read_vector(item["embedding"]) for item in items])
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad_reply(f"{error!r}") from error
        if indices != list(range(count)):
            raise self._bad_reply(f"indices {indices[:5]}… for {count} texts")
        if self.hidden_size and rows.shape[1] != self.hidden_size:
            raise self._bad_reply(f"{rows.shape[1]} dimensions, before it gave {self.hidden_size}")
        if not np.isfinite(rows).all():
            raise self._bad_reply("numbers that are not finite")
        return rows

    def _bad_reply(self, what: str) -> EmbedserveError:
        return EmbedserveError(
            f"the remote engine's reply is not OpenAI's embeddings format: {what}",
            status=502,
            code="ModelUnavailable",
            openai_code="model_unavailable",
        )


def write_window(text: str) -> Window:
    """A text without surrogates as a window of this backbone."""
    ids = np.frombuffer(text.encode("utf-32-le"), "<i4").astype(np.int32)
    return Window(ids, np.ones(len(ids), np.float32))


def read_text(window: Window) -> str:
    return window.ids.astype("<i4").tobytes().decode("utf-32-le")


def read_vector(embedding: Any) -> Floats:
    """(n,) float32 from a list of numbers or little-endian base64."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4").astype(np.float32)
    return np.array(embedding, np.float32)


def read_pause(retry_after: str | None) -> float:
    """Seconds from a ``Retry-After`` header, at most 30; dates are not honoured."""
    try:
        return min(30.0, max(0.0, float(retry_after or 0)))
    except ValueError:
        return 0.0
