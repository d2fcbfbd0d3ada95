"""The service: admit ► embed ► settle. Every door that serves callers walks through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from embedserve.accounts.accounts import Accounts, Reservation
from embedserve.accounts.caller import Caller
from embedserve.accounts.charges import Door
from embedserve.catalogue import ModelCard, find_model
from embedserve.embedding.dense import Role
from embedserve.embedding.embedder import Embedder, Embedding, Options, OutputType, Prepared, Truncate
from embedserve.engines import Engine, Engines
from embedserve.errors import EmbedserveError, invalid_input, too_many_rows
from embedserve.scheduling.batcher import Lane
from embedserve.scheduling.scheduler import Scheduler
from embedserve.settings import Settings

INLINE_CHARACTERS = 2_000
"""Texts shorter than this together are tokenised on the event loop: it takes well under a millisecond."""

INLINE_ROWS = 10
"""Vectors finished on the event loop; more (lenient mode) would hold up other requests."""


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
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="embedserve-text")
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

    async def close(self) -> None:
        """Finish what was accepted, then let go of everything."""
        await self.engines.close()
        await self.engine.scheduler.close()
        await self.accounts.close()
        self._threads.shutdown()
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

    async def embed(self, caller: Caller, request: EmbedRequest, request_id: str | None = None) -> EmbedReply:
        """Answer one request; ``request_id`` (unique, the one that the reply carries) names it in the ledger.

        Raises:
            EmbedserveError: refused (bad input, limits, quota) or not possible now; nothing is billed.
        """
        answer, reservation = await self.compute(caller, request, request_id)
        await self.accounts.settle(reservation, answer.tokens)
        return answer

    async def compute(
        self, caller: Caller, request: EmbedRequest, request_id: str | None = None
    ) -> tuple[EmbedReply, Reservation]:
        """:meth:`embed` without the bill, for jobs: they charge in the transaction that marks the work as
        done, and release the reservation afterwards. Raises EmbedserveError like :meth:`embed`."""
        card = find_model(request.model, tasks=request.lane == "bulk")
        inputs = self._check_rows(card, request)
        dimension = card.choose_dimension(request.dimension)
        async with self.engines.lease(card.id) as engine:
            return await self._compute_on(engine, card, dimension, inputs, caller, request, request_id)

    async def _compute_on(
        self,
        engine: Engine,
        card: ModelCard,
        dimension: int,
        inputs: Sequence[str | Sequence[int]],
        caller: Caller,
        request: EmbedRequest,
        request_id: str | None,
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
        prepared, errors = await self._prepare(engine, inputs, options, inline=not bulk)
        tokens = sum(item.tokens for item in prepared)
        door: Door = "batch" if bulk else "sync"
        reservation = await self.accounts.admit(caller, card.id, tokens, request_id=request_id, door=door)
        try:
            rows = iter(await self._encode(engine, prepared, options, request.lane, caller.key_id))
        except BaseException:
            await self.accounts.release(reservation)
            raise
        filled = [errors[i] if i in errors else next(rows) for i in range(len(inputs))]
        return EmbedReply(card.id, filled, tokens), reservation

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
        self,
        engine: Engine,
        inputs: Sequence[str | Sequence[int]],
        options: Options,
        *,
        inline: bool = True,
    ) -> tuple[list[Prepared], dict[int, EmbedserveError]]:
        """Prepared texts, and the rows that cannot be (lenient mode; otherwise the first one is raised)."""
        work = partial(self._prepare_rows, engine.embedder, inputs, options)
        if inline and sum(map(len, inputs)) <= INLINE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _prepare_rows(
        self, embedder: Embedder, inputs: Sequence[str | Sequence[int]], options: Options
    ) -> tuple[list[Prepared], dict[int, EmbedserveError]]:
        try:
            texts = [item if isinstance(item, str) else embedder.decode(item) for item in inputs]
            return embedder.prepare(texts, options), {}
        except EmbedserveError:
            if not self.lenient or len(inputs) == 1:
                raise
        prepared: list[Prepared] = []
        errors: dict[int, EmbedserveError] = {}
        for i, item in enumerate(inputs):
            try:
                text = item if isinstance(item, str) else embedder.decode(item)
                prepared += embedder.prepare([text], options)
            except EmbedserveError as error:
                errors[i] = error
        if not prepared:
            raise errors[0]
        return prepared, errors

    async def _encode(
        self, engine: Engine, prepared: Sequence[Prepared], options: Options, lane: Lane, owner: str
    ) -> list[Embedding]:
        windows = [window for item in prepared for window in item.windows]
        vectors = np.empty((0, engine.embedder.backbone.hidden_size), np.float32)
        if windows:
            vectors = await engine.scheduler.encode(windows, lane=lane, owner=owner)
        work = partial(engine.embedder.finish_all, prepared, vectors, options)
        if len(prepared) <= INLINE_ROWS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
