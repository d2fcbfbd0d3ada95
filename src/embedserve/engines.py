"""Which engine answers for which public name: the bundled one, and models loaded when first asked for.

Models share a memory promise: one is opened only if its predicted bytes fit, after the least recently used
idle ones have been put away. A model that cannot be opened answers 503 with the reason, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedserve.catalogue import MODELS
from embedserve.embedding.embedder import Embedder
from embedserve.embedding.models.references import check_references, is_remote, read_table, shown
from embedserve.embedding.models.store import ModelStore
from embedserve.errors import ModelLoadError
from embedserve.scheduling.scheduler import Scheduler
from embedserve.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""How long the reason of a failed load is repeated before the next try."""
CHUNK_TOKENS = 4096
CHUNK_SECONDS = 0.25
"""These networks are slower by far than the bundled one, and other servers are a network away: larger chunks
than the scheduler's own keep them full."""


class NoRoomError(ModelLoadError):
    """Others are in use: it can be loaded when they are not."""


def read_references(settings: Settings) -> dict[str, str]:
    """Public name -> reference, of the settings and the table, checked without loading anything.

    Raises:
        ModelLoadError: a table that cannot be read, a name that is not sold, a model that is not there.
    """
    store = ModelStore(settings.data_dir / "models")
    table = read_table(settings.data_dir)
    check_references(table, str(settings.data_dir / "models.toml"), store)
    check_references(settings.models, "EMBEDSERVE_MODELS or --model", store)
    return {**table, **settings.models}


@dataclass(frozen=True, slots=True)
class Engine:
    """One loaded network with the queue in front of it."""

    embedder: Embedder
    scheduler: Scheduler

    async def close(self) -> None:
        """Answer what was accepted, then give the memory back."""
        await self.scheduler.close()
        await asyncio.to_thread(self.embedder.close)


@dataclass(slots=True)
class _Place:
    """A model that is configured, loaded or not."""

    reference: str
    engine: Engine | None = None
    size: int = 0
    leases: int = 0
    used: float = 0.0
    failure: ModelLoadError | None = None
    failed_at: float = 0.0
    looked: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Engines:
    """The bundled engine and those beside it.

    Args:
        bundled: serves every name that ``references`` does not.
        references: public name -> folder, id of a pulled model, or address of another server.
        open_embedder: loads one, in a thread; raises ModelLoadError.
        predict: bytes that one will take.
        memory_limit: bytes for all models but the bundled one.
    """

    def __init__(
        self,
        bundled: Engine,
        references: dict[str, str],
        *,
        open_embedder: Callable[[str], Embedder],
        predict: Callable[[str], int],
        memory_limit: int,
    ) -> None:
        if unknown := sorted(set(references) - set(MODELS)):
            raise ModelLoadError(
                f"{unknown[0]!r} is not a name that is sold: models serve {', '.join(sorted(MODELS))}"
            )
        self.bundled = bundled
        self._open_embedder, self._predict = open_embedder, predict
        self._limit = memory_limit
        self._places = {reference: _Place(reference) for reference in references.values()}
        self._names = {name: self._places[reference] for name, reference in references.items()}
        self._room = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    def configure(cls, bundled: Engine, settings: Settings) -> Engines:
        """From the settings and the ``[models]`` table; imports PyTorch only when a model is loaded.

        Raises:
            ModelLoadError: a table that cannot be read, or a public name that does not exist.
        """
        from embedserve.embedding.backbones.torch_packing import Runtime
        from embedserve.embedding.models.opening import Shared, open_model, predict_bytes

        references = read_references(settings)
        store = ModelStore(settings.data_dir / "models")
        runtime = Runtime(settings.device, settings.precision)
        shared = Shared(bundled.embedder.tokenizer, bundled.embedder.lexical)
        limit = settings.model_memory_mb * 2**20 if settings.model_memory_mb else default_memory()
        return cls(
            bundled,
            references,
            open_embedder=lambda reference: open_model(reference, store, shared, runtime),
            predict=lambda reference: predict_bytes(reference, store, runtime),
            memory_limit=limit,
        )

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Engine]:
        """The engine for a public name, kept from eviction until the block ends; loaded if need be.

        Raises:
            ModelLoadError: it cannot be loaded now; the message says why.
        """
        place = self._names.get(name)
        if place is None:
            yield self.bundled
            return
        place.leases += 1
        try:
            yield place.engine or await self._load(place)
        finally:
            place.leases -= 1
            place.used = time.monotonic()

    def describe(self, name: str) -> dict[str, object]:
        """What serves a public name, as ``GET /models/{id}`` shows it; loads nothing."""
        place = self._names.get(name)
        engine = place.engine if place else self.bundled
        if place and engine is None:
            state = f"failed: {place.failure.message}" if place.failure else "not loaded yet"
            return {"served_from": shown(place.reference), "state": state}
        assert engine is not None
        told: dict[str, object] = {
            "backbone": engine.embedder.backbone.name,
            "native_dimension": engine.embedder.native_dimension,
            "model": engine.embedder.model.describe(),
            "recipe": engine.embedder.recipe.describe(),
            "fingerprint": engine.embedder.fingerprint,
        }
        return {"served_from": shown(place.reference), "state": "loaded", **told} if place else told

    @property
    def loaded(self) -> dict[str, int]:
        """reference -> predicted bytes of the models that are open, the bundled one not counted."""
        return {place.reference: place.size for place in self._places.values() if place.engine}

    @property
    def failures(self) -> dict[str, str]:
        """Public name -> why it cannot be served; what only waits for others to be idle is not among them."""
        told = {}
        for name, place in self._names.items():
            if place.engine or isinstance(place.failure, NoRoomError):
                continue
            if place.failure:
                told[name] = place.failure.message
            elif not place.looked:
                told[name] = "it is being looked at"
        return told

    def look(self) -> None:
        """See in the background whether what is configured can be served; returns at once.

        Another server is asked; of a folder it is worked out what it needs, nothing is loaded. What failed is
        looked at again after RETRY_SECONDS.
        """
        if self._looking is None or self._looking.done():
            now = time.monotonic()
            due = [
                place
                for place in self._places.values()
                if not place.engine
                and (not place.looked or (place.failure and now - place.failed_at > RETRY_SECONDS))
            ]
            if due:
                self._looking = asyncio.create_task(self._look(due), name="embedserve-models")

    async def _look(self, places: list[_Place]) -> None:
        for place in places:
            try:
                if is_remote(place.reference):
                    await self._load(place)
                    continue
                size = await asyncio.to_thread(self._predict, place.reference)
            except ModelLoadError as error:
                if place.failure is not error:
                    self._note(place, error)
            except Exception as error:
                self._note(place, _wrap(place.reference, error))
            else:
                if size > self._limit:
                    limit = self._limit >> 20
                    self._note(
                        place,
                        ModelLoadError(
                            f"it needs about {size >> 20} MiB, {limit} are promised: raise "
                            "EMBEDSERVE_MODEL_MEMORY_MB, or choose a smaller model or precision"
                        ),
                    )
            finally:
                place.looked = True

    async def close(self) -> None:
        """Put every model away but the bundled one."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for place in self._places.values():
            async with place.lock:
                await self._put_away(place)

    async def _load(self, place: _Place) -> Engine:
        async with place.lock:
            if place.engine:
                return place.engine
            if place.failure and time.monotonic() - place.failed_at < RETRY_SECONDS:
                raise place.failure
            try:
                await self._make_room(place, await asyncio.to_thread(self._predict, place.reference))
                embedder = await asyncio.to_thread(self._open_embedder, place.reference)
            except Exception as error:
                place.size = 0
                failure = error if isinstance(error, ModelLoadError) else _wrap(place.reference, error)
                self._note(place, failure)
                raise failure from error
            backbone = embedder.backbone
            scheduler = Scheduler(
                _Bounded(backbone),
                chunk_tokens=CHUNK_TOKENS,
                chunk_seconds=CHUNK_SECONDS,
                admission=self.bundled.scheduler.admission,
            )
            await scheduler.start()
            place.engine, place.failure = Engine(embedder, scheduler), None
            log.info("loaded %s as %s, about %d MiB", shown(place.reference), backbone.name, place.size >> 20)
            return place.engine

    async def _make_room(self, place: _Place, size: int) -> None:
        async with self._room:
            taken = sum(other.size for other in self._places.values())
            idle = [other for other in self._places.values() if other.engine and not other.leases]
            for other in sorted(idle, key=lambda other: other.used):
                if taken + size <= self._limit:
                    break
                taken -= other.size
                log.info("putting %s away for %s", other.reference, place.reference)
                await self._put_away(other)
            if taken + size > self._limit:
                refuse = ModelLoadError if size > self._limit else NoRoomError
                raise refuse(
                    f"{place.reference} needs about {size >> 20} MiB, but {taken >> 20} of the promised "
                    f"{self._limit >> 20} MiB are in use: raise EMBEDSERVE_MODEL_MEMORY_MB, or choose a "
                    "smaller model or precision"
                )
            place.size = size

    def _note(self, place: _Place, failure: ModelLoadError) -> None:
        failure.message = shown(failure.message)
        place.failure, place.failed_at = failure, time.monotonic()
        names = " and ".join(name for name, other in self._names.items() if other is place)
        log.warning("%s cannot be served from %s: %s", names, shown(place.reference), failure.message)

    async def _put_away(self, place: _Place) -> None:
        engine, place.engine, place.size = place.engine, None, 0
        if engine:
            await engine.close()


class _Bounded:
    """A backbone as the scheduler sees it: attention of long windows is computed in blocks, so the memory it
    must set aside does not grow with the square of the longest window."""

    def __init__(self, backbone: Any) -> None:
        self.name: str = backbone.name
        self.hidden_size: int = backbone.hidden_size
        self.window_size: int = min(backbone.window_size, 8192)
        self.encode = backbone.encode
        self.close = backbone.close


def _wrap(reference: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(f"loading {reference} failed with {type(error).__name__}: {error}")


def default_memory() -> int:
    """Seven tenths of this machine's memory, or of the control group's limit where there is one."""
    total = 8 << 30
    if hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total * 7 // 10
