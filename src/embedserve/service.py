"""The service: admit ► embed ► settle. Every door that serves callers walks through it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from embedserve.accounts.accounts import Accounts, Reservation
from embedserve.accounts.caller import Caller
from embedserve.accounts.charges import Door
from embedserve.catalogue import ModelCard, find_model
from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.dense import Role
from embedserve.embedding.embedder import Embedder, Embedding, Options, OutputType, Prepared, Truncate
from embedserve.embedding.long_texts import bound
from embedserve.engines import Engine, Engines
from embedserve.errors import EmbedserveError, bad_length, invalid_input, too_many_rows
from embedserve.scheduling.batcher import Lane
from embedserve.scheduling.memory import Hold, predict_bytes
from embedserve.scheduling.scheduler import Scheduler
from embedserve.settings import Settings

INLINE_CHARACTERS = 2_000
"""Texts shorter than this together are tokenised on the event loop: it takes well under a millisecond."""

INLINE_ROWS = 10
INLINE_TOKENS = 20_000
"""Vectors finished on the event loop; more (lenient mode, long sparse ones) would hold up other requests."""

LONG_CHARACTERS = 100_000
"""Requests with more text than this have threads of their own: no other waits behind them."""

GROUP_CHARACTERS, GROUP_ROWS = 50_000, 64
"""What is tokenised or finished in one step: between two, other threads get the interpreter's lock."""

RENDERED_BYTES = 2**20
"""What is rendered of a reply at a time, with what the connection buffers of it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a caller asks, free of any dialect.

    Attributes:
        inputs: texts, or arrays of token ids (lenient mode).
        dimension: None for the model's default.
        lane: ``interactive`` for somebody who waits, ``bulk`` for jobs.
    """

    model: str
    inputs: Sequence[str | Sequence[int]]
    text_type: Role | None = None
    instruct: str | None = None
    dimension: int | None = None
    output_type: OutputType = "dense"
    truncate: Truncate = "none"
    lane: Lane = "interactive"


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """The rows in the order of the inputs; in lenient mode a row may be the error that befell it."""

    model: str
    rows: Sequence[Embedding | EmbedserveError]
    tokens: int

    @property
    def cuts(self) -> dict[int, int]:
        """row -> tokens dropped by ``truncate``"""
        return {i: row.cut for i, row in enumerate(self.rows) if isinstance(row, Embedding) and row.cut}


class EmbeddingService:
    """Owns accounts and engines; the doors share one instance."""

    def __init__(
        self, settings: Settings, accounts: Accounts, engine: Engine, engines: Engines | None = None
    ) -> None:
        self.settings = settings
        self.accounts = accounts
        self.engine = engine
        """The bundled model's."""
        self.engines = engines or Engines.configure(engine, settings)
        self._threads = {
            name: ThreadPoolExecutor(2, thread_name_prefix=f"embedserve-{name}")
            for name in ("text", "long", "bulk", "upload")
        }
        self._proved_at = -np.inf

    @classmethod
    def open(cls, settings: Settings, loading: Future[Embedder] | None = None) -> EmbeddingService:
        """Open the accounts and load the model, or take the one that is ``loading`` already.

        Raises:
            ModelLoadError: the weights are not usable.
            EmbedserveError: the database or the plan cannot be used.
        """
        accounts = Accounts.open(settings)
        embedder = loading.result() if loading else Embedder.configure(settings)
        scheduler = Scheduler(
            embedder.backbone,
            memory_limit=settings.memory_limit_mb * 2**20,
            cache_bytes=settings.cache_mb * 2**20,
        )
        return cls(settings, accounts, Engine(embedder, scheduler))

    async def start(self) -> None:
        await self.accounts.start()
        await self.engine.scheduler.start()
        await self.prove()
        self.engines.look()

    async def close(self) -> None:
        """Finish what was accepted, then let go of everything."""
        await self.engines.close()
        await self.engine.scheduler.close()
        await self.accounts.close()
        for threads in self._threads.values():
            threads.shutdown()
        self.engine.embedder.close()

    @property
    def lenient(self) -> bool:
        return self.settings.limits == "lenient"

    def max_rows(self, card: ModelCard) -> int:
        """Texts per request, by the limits in force."""
        return self.settings.lenient_max_rows if self.lenient else card.max_rows

    def describe(self, model: str) -> dict[str, object]:
        """What serves a public model name: backbone and recipe, as ``GET /models/{id}`` shows them."""
        return self.engines.describe(model)

    async def prove(self, max_age: float = 10.0) -> None:
        """A real forward pass, unless one succeeded in the last ``max_age`` seconds. Raises if it fails."""
        if time.monotonic() - self._proved_at < max_age:
            return
        options = Options(dimension=64)
        prepared = self.engine.embedder.prepare(["ready?"], options)
        rows = await self._encode(self.engine, prepared, options, "interactive", "")
        if rows[0].dense is None or not np.isfinite(rows[0].dense).all():
            raise EmbedserveError("the engine gives no finite vectors", status=503, code="ModelUnavailable")
        self._proved_at = time.monotonic()

    def hold(self, caller: Caller) -> Hold:
        """Where a request's memory is counted from its first byte to the last of its reply."""
        return self.engine.scheduler.admission.hold(owner=caller.key_id)

    async def run_long(self, work: Callable[..., T], *given: Any) -> T:
        """Work on something large, in a thread that no small request waits for."""
        return await asyncio.get_running_loop().run_in_executor(self._threads["long"], partial(work, *given))

    async def run_upload(self, work: Callable[..., T], *given: Any) -> T:
        """A piece of an upload: parsing and the disk, in threads that nothing else waits for."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads["upload"], partial(work, *given)
        )

    async def embed(
        self,
        caller: Caller,
        request: EmbedRequest,
        request_id: str | None = None,
        *,
        hold: Hold | None = None,
        waiting: AbstractContextManager[object] | None = None,
    ) -> EmbedReply:
        """Answer one request; ``request_id`` (unique, the one that the reply carries) names it in the ledger.

        Args:
            hold: counts the request's memory until the reply is sent; closed by whoever opened it.
            waiting: surrounds the work until it is charged, and may end it: whatever it raises, nothing of
                the request stays queued and nothing is billed.

        Raises:
            EmbedserveError: refused (bad input, limits, quota) or not possible now; nothing is billed.
        """
        with waiting or nullcontext():
            answer, reservation = await self.compute(caller, request, request_id, hold)
        await self.accounts.settle(reservation, answer.tokens)
        return answer

    async def compute(
        self,
        caller: Caller,
        request: EmbedRequest,
        request_id: str | None = None,
        hold: Hold | None = None,
    ) -> tuple[EmbedReply, Reservation]:
        """:meth:`embed` without the bill, for jobs: they charge in the transaction that marks the work as
        done, and release the reservation afterwards. Raises EmbedserveError like :meth:`embed`."""
        card = find_model(request.model, tasks=request.lane == "bulk")
        inputs = self._check_rows(card, request)
        dimension = card.choose_dimension(request.dimension)
        async with self.engines.lease(card.id) as engine:
            if hold is not None:
                return await self._compute_on(
                    engine, card, dimension, inputs, caller, request, request_id, hold
                )
            with engine.scheduler.admission.hold(lane=request.lane, owner=caller.key_id) as own:
                return await self._compute_on(
                    engine, card, dimension, inputs, caller, request, request_id, own
                )

    async def _compute_on(
        self,
        engine: Engine,
        card: ModelCard,
        dimension: int,
        inputs: Sequence[str | Sequence[int]],
        caller: Caller,
        request: EmbedRequest,
        request_id: str | None,
        hold: Hold,
    ) -> tuple[EmbedReply, Reservation]:
        bulk = request.lane == "bulk"
        asked = request.dimension is not None and len(card.dimensions) > 1
        options = Options(
            text_type=request.text_type,
            instruct=request.instruct if card.instruct else None,
            dimension=engine.embedder.choose_dimension(dimension, asked=asked),
            output_type=request.output_type if card.sparse else "dense",
            max_tokens=card.max_tokens,
            truncate=request.truncate,
        )
        prepared, errors = await self._prepare(engine, inputs, options, hold)
        tokens = sum(item.tokens for item in prepared)
        hold.grow(reply_bytes(len(prepared), tokens, options))
        if not bulk:
            self._refuse_long_wait(engine, prepared, caller.key_id)
        door: Door = "batch" if bulk else "sync"
        reservation = await self.accounts.admit(caller, card.id, tokens, request_id=request_id, door=door)
        try:
            rows = iter(await self._encode(engine, prepared, options, request.lane, caller.key_id, hold))
        except BaseException:
            await self.accounts.release(reservation)
            raise
        filled = [errors[i] if i in errors else next(rows) for i in range(len(inputs))]
        return EmbedReply(card.id, filled, tokens), reservation

    def _refuse_long_wait(self, engine: Engine, prepared: Sequence[Prepared], owner: str) -> None:
        limit = self.settings.max_wait_seconds
        windows = [window for item in prepared for window in item.windows]
        if not limit or not windows:
            return
        wait = engine.scheduler.forecast_wait(windows, owner, enough=limit)
        if wait > limit:
            raise EmbedserveError(
                f"Too many requests. The server has work for {math.ceil(wait)} seconds before this request, "
                f"it takes on no more than {limit:g}. Please try again later.",
                status=503,
                code="ModelServingError",
                retry_after=wait - limit,
            )

    def _check_rows(self, card: ModelCard, request: EmbedRequest) -> Sequence[str | Sequence[int]]:
        limit = self.max_rows(card)
        if len(request.inputs) > limit:
            raise too_many_rows(limit)
        if not request.inputs:
            raise invalid_input(
                f"Value error, batch size is invalid, it should be in [1, {limit}].: input.contents"
            )
        return request.inputs

    async def _prepare(
        self, engine: Engine, inputs: Sequence[str | Sequence[int]], options: Options, hold: Hold
    ) -> tuple[list[Prepared], dict[int, EmbedserveError]]:
        """Prepared texts, and the rows that cannot be (lenient mode; otherwise the first one is raised)."""
        size = sum(map(len, inputs))
        work = partial(self._prepare_rows, engine.embedder, inputs, options, hold)
        if size <= INLINE_CHARACTERS and hold.lane != "bulk":
            return work()
        return await self._in_thread(work, hold, large=size > LONG_CHARACTERS)

    async def _in_thread(self, work: Callable[[], T], hold: Hold, *, large: bool) -> T:
        name = "bulk" if hold.lane == "bulk" else "long" if large else "text"
        return await asyncio.get_running_loop().run_in_executor(self._threads[name], work)

    def _prepare_rows(
        self, embedder: Embedder, inputs: Sequence[str | Sequence[int]], options: Options, hold: Hold
    ) -> tuple[list[Prepared], dict[int, EmbedserveError]]:
        prepared: list[Prepared] = []
        errors: dict[int, EmbedserveError] = {}
        for start, end in in_groups(inputs):
            try:
                group = prepare_group(embedder, inputs[start:end], options)
            except EmbedserveError as refusal:
                if not self.lenient or len(inputs) == 1:
                    raise
                group, alone = [], refusal
                for i in range(start, end):
                    try:
                        group += prepare_group(embedder, inputs[i : i + 1], options)
                    except EmbedserveError as error:
                        errors[i] = alone = error
                if len(errors) == len(inputs):
                    raise alone from None
            prepared += group
            windows = [window for item in group for window in item.windows]
            hold.grow(predict_bytes(windows, embedder.backbone.hidden_size))
        return prepared, errors

    async def _encode(
        self,
        engine: Engine,
        prepared: Sequence[Prepared],
        options: Options,
        lane: Lane,
        owner: str,
        hold: Hold | None = None,
    ) -> list[Embedding]:
        windows = [window for item in prepared for window in item.windows]
        vectors = np.empty((0, engine.embedder.backbone.hidden_size), np.float32)
        if windows:
            vectors = await engine.scheduler.encode(windows, lane=lane, owner=owner, hold=hold)
        tokens = sum(item.tokens for item in prepared) if options.sparse else 0
        if (len(prepared) <= INLINE_ROWS and tokens <= INLINE_TOKENS) or hold is None:
            return engine.embedder.finish_all(prepared, vectors, options)
        work = partial(finish_in_groups, engine.embedder, prepared, vectors, options)
        return await self._in_thread(work, hold, large=len(prepared) > GROUP_ROWS)


def in_groups(inputs: Sequence[str | Sequence[int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of rows that are tokenised in one step."""
    start = size = 0
    for i, item in enumerate(inputs):
        if i > start and (size + len(item) > GROUP_CHARACTERS or i - start == GROUP_ROWS):
            yield start, i
            start, size = i, 0
        size += len(item)
    yield start, len(inputs)


def prepare_group(
    embedder: Embedder, inputs: Sequence[str | Sequence[int]], options: Options
) -> list[Prepared]:
    """Raises EmbedserveError for the first row that cannot be embedded."""
    texts: list[str] = []
    for item in inputs:
        text = bound(item if isinstance(item, str) else embedder.decode(item), options, embedder)
        if text is None:
            raise bad_length(options.max_tokens, len(texts), options.max_tokens + 1)
        texts.append(text)
    return embedder.prepare(texts, options)


def finish_in_groups(
    embedder: Embedder, prepared: Sequence[Prepared], vectors: Floats, options: Options
) -> list[Embedding]:
    rows: list[Embedding] = []
    end = 0
    for i in range(0, len(prepared), GROUP_ROWS):
        group = prepared[i : i + GROUP_ROWS]
        start, end = end, end + sum(len(item.windows) for item in group)
        rows += embedder.finish_all(group, vectors[start:end], options)
    return rows


def reply_bytes(rows: int, tokens: int, options: Options) -> int:
    """Memory for the vectors of a reply and for as much of it as is rendered at a time."""
    numbers = rows * options.dimension if options.dense else 0
    entries = tokens if options.sparse else 0
    return 4 * numbers + 16 * entries + min(12 * numbers + 250 * entries, RENDERED_BYTES)
