"""A stream of texts to a stream of vectors: in order, in bounded memory, all three steps at work at once.

While the caller handles one chunk's vectors, the network computes the next and the one after is tokenised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from embedserve.embedding.vectors import Embedding
from embedserve.errors import RowError, in_plain_words

if TYPE_CHECKING:
    from embedserve.embedding.embedder import Embedder, Options, Prepared

CHUNK_CHARACTERS = 1 << 18
"""A chunk of long texts ends here, however many rows were asked for."""
AHEAD = 2
"""Chunks under way besides the one whose vectors the caller has."""


def embed_stream(
    embedder: Embedder, rows: Iterator[str], options: Options, *, chunk: int
) -> Generator[Embedding, None, None]:
    """The vectors of each row. Rows are taken in the caller's own thread, ``chunk`` at a time.

    Whatever stops the stream, a bad row or the source's own exception, all rows before it come out first.

    Raises:
        RowError: naming the row; EmbedserveError as :meth:`Embedder.embed`; whatever the source raises.
    """
    failure: Exception | None = None
    waiting: deque[Future[tuple[list[Embedding], RowError | None]]] = deque()
    first = 0
    with (
        ThreadPoolExecutor(1, "embedserve-text") as words,
        ThreadPoolExecutor(1, "embedserve-net") as net,
    ):
        try:
            while failure is None:
                texts, failure = _take(rows, chunk)
                if not texts:
                    break
                prepared = words.submit(_prepare, embedder, texts, options, first)
                waiting.append(net.submit(_compute, embedder, prepared, options))
                first += len(texts)
                if len(waiting) > AHEAD:
                    yield from _results(waiting.popleft())
            while waiting:
                yield from _results(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()
    if failure is not None:
        raise failure


def _take(rows: Iterator[str], chunk: int) -> tuple[list[str], Exception | None]:
    """The next rows, and what ended them if that was an exception."""
    texts: list[str] = []
    characters = 0
    try:
        for text in rows:
            texts.append(text)
            characters += len(text)
            if len(texts) >= chunk or characters >= CHUNK_CHARACTERS:
                break
    except Exception as error:
        return texts, error
    return texts, None


def _prepare(
    embedder: Embedder, texts: list[str], options: Options, first: int
) -> tuple[list[Prepared], RowError | None]:
    """The texts up to the first that cannot be embedded, and why that one cannot."""
    try:
        return embedder.prepare(texts, options), None
    except RowError as error:
        return embedder.prepare(texts[: error.row], options), in_plain_words(error, first)


def _compute(
    embedder: Embedder, prepared: Future[tuple[list[Prepared], RowError | None]], options: Options
) -> tuple[list[Embedding], RowError | None]:
    texts, error = prepared.result()
    return embedder.compute(texts, options), error


def _results(future: Future[tuple[list[Embedding], RowError | None]]) -> Iterator[Embedding]:
    embeddings, error = future.result()
    yield from embeddings
    if error is not None:
        raise error
