"""The scheduler over a backbone that counts, waits at a gate and fails where it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.dummy import DummyBackbone
from embedserve.errors import EmbedserveError
from embedserve.scheduling.direct import encode_directly
from embedserve.scheduling.scheduler import Scheduler, window_cost

pytestmark = pytest.mark.quick

POISON = 13
"""A window that starts with this id makes the backbone raise."""


class Recorder(DummyBackbone):
    """Notes what it is asked; stands still while the gate is shut."""

    def __init__(self) -> None:
        super().__init__(hidden_size=8)
        self.calls: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def encode(self, windows: Sequence[Window]) -> Floats:
        self.calls.append([int(window.ids[0]) for window in windows])
        self.entered.release()
        assert self.gate.wait(30)
        if any(window.ids[0] == POISON for window in windows):
            raise RuntimeError("poisoned")
        return super().encode(windows)


def window(first: int, tokens: int = 10) -> Window:
    return Window(np.array([first] + [7] * (tokens - 1), np.int32), np.ones(tokens, np.float32))


@asynccontextmanager
async def running(backbone: Recorder, **options: int | float):
    scheduler = Scheduler(backbone, **{"chunk_tokens": 100, **options})  # type: ignore[arg-type]
    await scheduler.start()
    try:
        yield scheduler
    finally:
        backbone.gate.set()
        await scheduler.close()


def drive(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def hold(backbone: Recorder, scheduler: Scheduler) -> asyncio.Task[Floats]:
    """Occupy the backbone with a window until the gate opens."""
    backbone.gate.clear()
    task = asyncio.create_task(scheduler.encode([window(0)]))
    await asyncio.to_thread(backbone.entered.acquire)
    return task


def test_vectors_come_in_the_order_of_the_windows() -> None:
    backbone = Recorder()
    windows = [window(100 + i, 1 + i % 70) for i in range(200)]

    async def scenario() -> None:
        async with running(backbone) as scheduler:
            vectors = await scheduler.encode(windows)
            assert np.array_equal(vectors, DummyBackbone(hidden_size=8).encode(windows))
            assert max(map(len, backbone.calls)) > 1
            assert (await scheduler.encode([])).shape == (0, 8)

    drive(scenario)


def test_a_query_overtakes_bulk_and_a_long_request() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone) as scheduler:
            held = await hold(backbone, scheduler)
            bulk = asyncio.create_task(
                scheduler.encode([window(200 + i, 60) for i in range(20)], lane="bulk")
            )
            long = asyncio.create_task(scheduler.encode([window(300 + i, 60) for i in range(20)]))
            await asyncio.sleep(0)
            query = asyncio.create_task(scheduler.encode([window(400)]))
            await asyncio.sleep(0)
            backbone.gate.set()
            await asyncio.gather(held, bulk, long, query)
            order = [first for call in backbone.calls for first in call]
            assert order[1] == 400
            assert max(order.index(300 + i) for i in range(20)) < min(order.index(200 + i) for i in range(20))

    drive(scenario)


def test_identical_windows_in_flight_are_computed_once() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone) as scheduler:
            held = await hold(backbone, scheduler)
            twins = [
                asyncio.create_task(scheduler.encode([window(5), window(6), window(5)])) for _ in range(4)
            ]
            late = asyncio.create_task(scheduler.encode([window(0)]))  # the same as the one that runs
            await asyncio.sleep(0.01)
            backbone.gate.set()
            results = await asyncio.gather(*twins)
            assert np.array_equal(await held, await late)
            assert all(np.array_equal(result, results[0]) for result in results)
            assert np.array_equal(results[0][0], results[0][2])
            assert sorted(first for call in backbone.calls for first in call) == [0, 5, 6]
            assert scheduler.stats.windows_shared == 11

    drive(scenario)


def test_the_same_ids_with_other_weights_are_another_window() -> None:
    backbone = Recorder()
    mean = window(5)
    first_token = Window(mean.ids, np.eye(10, dtype=np.float32)[0])

    async def scenario() -> None:
        async with running(backbone, cache_bytes=1 << 20) as scheduler:
            a, b = await scheduler.encode([mean, first_token])
            assert not np.array_equal(a, b)

    drive(scenario)


def test_the_cache_gives_the_same_bits_and_stays_in_its_bounds() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone, cache_bytes=3000) as scheduler:
            first = await scheduler.encode([window(5), window(6)])
            again = await scheduler.encode([window(6), window(5)])
            assert first.tobytes() == again[::-1].tobytes()
            assert sum(map(len, backbone.calls)) == 2
            assert (scheduler.stats.cache_hits, scheduler.stats.cache_misses) == (2, 2)
            again[:] = 0  # what a caller does with a result is no business of the cache
            assert np.array_equal(await scheduler.encode([window(5)]), first[:1])
            await scheduler.encode([window(1000 + i) for i in range(50)])
            assert scheduler.stats.cache_bytes <= 3000
            await scheduler.encode([window(5)])
            assert backbone.calls[-1] == [5]

    drive(scenario)


def test_only_the_request_at_fault_fails() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone) as scheduler:
            held = await hold(backbone, scheduler)
            good = [asyncio.create_task(scheduler.encode([window(20 + i)])) for i in range(3)]
            bad = asyncio.create_task(scheduler.encode([window(30), window(POISON), window(31)]))
            await asyncio.sleep(0)
            backbone.gate.set()
            with pytest.raises(EmbedserveError) as caught:
                await bad
            assert (caught.value.status, caught.value.code) == (500, "InternalError.Algo")
            await asyncio.gather(held, *good)
            assert (await scheduler.encode([window(40)])).shape == (1, 8)
            stats = scheduler.stats
            assert (stats.windows_failed, stats.held_bytes, stats.requests_waiting) == (1, 0, 0)

    drive(scenario)


def test_a_vector_that_is_not_finite_is_a_failure() -> None:
    class Broken(Recorder):
        def encode(self, windows: Sequence[Window]) -> Floats:
            vectors = super().encode(windows)
            vectors[[window.ids[0] == 50 for window in windows]] = np.nan
            return vectors

    async def scenario() -> None:
        async with running(Broken()) as scheduler:
            results = await asyncio.gather(
                scheduler.encode([window(50)]), scheduler.encode([window(51)]), return_exceptions=True
            )
            assert isinstance(results[0], EmbedserveError)
            assert isinstance(results[1], np.ndarray)

    drive(scenario)


def test_who_cancels_leaves_the_queue() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone) as scheduler:
            held = await hold(backbone, scheduler)
            leaver = asyncio.create_task(scheduler.encode([window(60), window(61)]))
            stayer = asyncio.create_task(scheduler.encode([window(61), window(62)]))
            await asyncio.sleep(0)
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            backbone.gate.set()
            await asyncio.gather(held, stayer)
            assert sorted(first for call in backbone.calls for first in call) == [0, 61, 62]
            assert scheduler.stats.held_bytes == 0
            assert scheduler.stats.queued_tokens == {"interactive": 0, "bulk": 0}

    drive(scenario)


def test_a_full_queue_refuses_in_the_dialects_words_and_recovers() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone, memory_limit=7_500_000) as scheduler:
            limit = scheduler.stats.limit_bytes
            held = await hold(backbone, scheduler)
            accepted, refusals = [held], []
            for i in range(2000):
                task = asyncio.create_task(
                    scheduler.encode([window(1000 + 20 * i + j) for j in range(20)], owner=f"key-{i % 3}")
                )
                await asyncio.sleep(0)
                if task.done():
                    refusals.append(task.exception())
                    if len(refusals) == 10:
                        break
                else:
                    accepted.append(task)
            assert scheduler.stats.held_bytes <= limit
            for error in refusals:
                assert isinstance(error, EmbedserveError)
                assert (error.status, error.code) == (503, "ModelServingError")
                assert error.message.startswith("Too many requests. Your requests are being throttled")
                assert error.retry_after is not None
                assert error.retry_after >= 1
            newcomer = asyncio.create_task(scheduler.encode([window(9)], owner="another key"))
            backbone.gate.set()
            await asyncio.gather(*accepted, newcomer)
            assert scheduler.stats.held_bytes == 0
            await scheduler.encode([window(10)], owner="key-0")

    drive(scenario)


def test_bulk_never_shuts_queries_out() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        async with running(backbone, memory_limit=7_500_000) as scheduler:
            held = await hold(backbone, scheduler)
            accepted = [held]
            while True:
                windows = [window(1000 + 20 * len(accepted) + j) for j in range(20)]
                task = asyncio.create_task(scheduler.encode(windows, lane="bulk", owner=str(len(accepted))))
                await asyncio.sleep(0)
                if task.done():
                    break
                accepted.append(task)
            error = task.exception()
            assert isinstance(error, EmbedserveError)
            assert (error.status, error.code) == (429, "Throttling.AllocationQuota")
            query = asyncio.create_task(scheduler.encode([window(9)]))
            backbone.gate.set()
            await asyncio.gather(*accepted, query)

    drive(scenario)


def test_a_request_that_can_never_fit_says_so() -> None:
    async def scenario() -> None:
        async with running(Recorder(), memory_limit=5_500_000) as scheduler:
            with pytest.raises(EmbedserveError, match=r"needs \d+ bytes of memory") as caught:
                await scheduler.encode([window(i, 500) for i in range(2000)])
            assert (caught.value.status, caught.value.retry_after) == (400, None)

    drive(scenario)


def test_closing_drains_what_was_accepted() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        scheduler = Scheduler(backbone, chunk_tokens=100)
        await scheduler.start()
        held = await hold(backbone, scheduler)
        waiting = asyncio.create_task(scheduler.encode([window(70 + i) for i in range(40)]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(scheduler.close())
        await asyncio.sleep(0)
        with pytest.raises(EmbedserveError) as caught:
            await scheduler.encode([window(1)])
        assert (caught.value.status, caught.value.code) == (503, "ModelUnavailable")
        backbone.gate.set()
        assert (await waiting).shape == (40, 8)
        await held
        await closing
        await scheduler.close()

    drive(scenario)


def test_closing_without_draining_fails_what_waits() -> None:
    backbone = Recorder()

    async def scenario() -> None:
        scheduler = Scheduler(backbone, chunk_tokens=100)
        await scheduler.start()
        held = await hold(backbone, scheduler)
        waiting = asyncio.create_task(scheduler.encode([window(70)]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(scheduler.close(drain=False))
        await asyncio.sleep(0)
        backbone.gate.set()
        await closing
        for task in (held, waiting):
            with pytest.raises(EmbedserveError):
                await task
        assert backbone.calls == [[0]]

    drive(scenario)


def test_a_memory_limit_below_one_chunk_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        Scheduler(Recorder(), memory_limit=1000)


def test_chunks_follow_the_measured_rate() -> None:
    backbone = Recorder()
    backbone.seconds_per_token = 0.0002  # 5,000 tokens a second: 30 ms are about 150

    async def scenario() -> None:
        async with running(backbone, chunk_tokens=4096) as scheduler:
            await scheduler.encode([window(100 + i) for i in range(300)])
            rate = 5000 * window_cost(10, 8) / 10  # it sleeps at least that long
            assert 64 <= scheduler.stats.chunk_tokens <= rate * 0.03
            assert scheduler.stats.tokens_per_second <= rate

    drive(scenario)


def test_encoding_directly_gives_the_same_vectors() -> None:
    backbone = Recorder()
    windows = [window(100 + i % 30, 1 + i % 30) for i in range(90)]
    assert np.array_equal(
        encode_directly(backbone, windows, chunk_tokens=50), DummyBackbone(hidden_size=8).encode(windows)
    )
    assert sum(map(len, backbone.calls)) == 30
    assert encode_directly(backbone, []).shape == (0, 8)
