from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from embedserve.accounts.limits import Demand, Refusal, Ticket, demand
from embedserve.errors import EmbedserveError
from freezing import FreezingProxy
from real_servers import RedisServer, free_port

redis = pytest.importorskip("redis", reason="needs the extra `redis`")

from embedserve.accounts.shared_limits import PREFIX, SharedLimiter  # noqa: E402


def requests(per_minute: int, per_second: bool = False) -> list[Demand]:
    return [demand("key:k", "requests", 1, per_minute, per_second)]


def tokens(cost: int, per_minute: int) -> list[Demand]:
    return [demand("key:k", "tokens", cost, per_minute, False)]


def run(url: str, scenario: Callable[..., Awaitable[None]], nodes: int = 1, timeout: float = 5.0) -> None:
    async def go() -> None:
        limiters = [SharedLimiter(url, timeout) for _ in range(nodes)]
        await scenario(*limiters)
        for limiter in limiters:
            await limiter.close()

    asyncio.run(go())


def test_two_nodes_admit_exactly_the_number_together(redis_server: RedisServer) -> None:
    async def scenario(one: SharedLimiter, two: SharedLimiter) -> None:
        told = await asyncio.gather(*(node.take(requests(100)) for node in (one, two) * 100))
        assert sum(isinstance(answer, Ticket) and answer.remote for answer in told) == 100
        refusals = [answer for answer in told if isinstance(answer, Refusal)]
        assert len(refusals) == 100
        assert all(0 < refusal.retry_after <= 60 for refusal in refusals)

    run(redis_server.url, scenario, nodes=2)


def test_all_or_nothing_and_giving_back(redis_server: RedisServer) -> None:
    async def scenario(limiter: SharedLimiter) -> None:
        both = [demand("key:k", "requests", 1, 100, False), demand("key:k", "tokens", 60, 100, False)]
        ticket = await limiter.take(both)
        assert isinstance(ticket, Ticket)
        refusal = await limiter.take(both)
        assert isinstance(refusal, Refusal)
        assert refusal.unit == "tokens"
        await limiter.give(ticket, [(both[1], 20)])  # it took 40 in the end
        assert isinstance(await limiter.take(tokens(60, 100)), Ticket)
        assert isinstance(await limiter.take(tokens(1, 100)), Refusal)
        left = [await limiter.take(requests(100)) for _ in range(101)]
        assert sum(isinstance(answer, Ticket) for answer in left) == 99

    run(redis_server.url, scenario)


def test_a_second_admits_a_sixtieth(redis_server: RedisServer) -> None:
    async def scenario(limiter: SharedLimiter) -> None:
        started = time.time()
        told = [await limiter.take(requests(600, per_second=True)) for _ in range(60)]
        seconds = int(time.time()) - int(started) + 1  # slots of Redis's clock, this machine's
        admitted = sum(isinstance(answer, Ticket) for answer in told)
        assert 10 <= admitted <= 10 * seconds
        tickets: dict[int, int] = {}
        for answer in told:
            if isinstance(answer, Ticket):
                tickets[answer.second] = tickets.get(answer.second, 0) + 1
        assert max(tickets.values()) == 10

    run(redis_server.url, scenario)


def test_a_clock_that_was_set_back_locks_nobody_out(redis_server: RedisServer) -> None:
    async def scenario(limiter: SharedLimiter) -> None:
        client = redis.Redis.from_url(redis_server.url)
        client.hset(f"{PREFIX}key:k:requests", str(int(time.time()) + 3600), 100)
        client.close()
        assert isinstance(await limiter.take(requests(100)), Ticket)

    run(redis_server.url, scenario)


def test_counters_expire_by_themselves(redis_server: RedisServer) -> None:
    async def scenario(limiter: SharedLimiter) -> None:
        await limiter.take(requests(100))

    run(redis_server.url, scenario)
    client = redis.Redis.from_url(redis_server.url)
    [key] = client.keys("*")
    assert 0 < client.ttl(key) <= 120
    client.close()


def test_when_redis_is_silent_a_node_counts_alone_at_once_and_comes_back(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedserve.accounts.shared_limits.PAUSE", 0.5)

    async def scenario(limiter: SharedLimiter) -> None:
        remote = await limiter.take(requests(100))
        assert isinstance(remote, Ticket)
        assert remote.remote
        proxy.freeze()
        started = time.monotonic()
        told = await asyncio.gather(*(limiter.take(requests(100)) for _ in range(200)))
        assert limiter.degraded
        assert time.monotonic() - started < 10  # 200 callers share one wait, not one after the other
        assert sum(isinstance(answer, Ticket) for answer in told) == 100
        assert not any(answer.remote for answer in told if isinstance(answer, Ticket))
        proxy.thaw()
        for _ in range(100):
            await asyncio.sleep(0.1)
            answer = await limiter.take(requests(1000))
            if isinstance(answer, Ticket) and answer.remote:
                break
        else:
            pytest.fail("it never came back")

    with FreezingProxy(redis_server.port) as proxy:
        run(f"redis://127.0.0.1:{proxy.port}/0", scenario, timeout=0.5)


def test_a_redis_that_is_not_there_costs_no_start(redis_server: RedisServer) -> None:
    async def scenario(limiter: SharedLimiter) -> None:
        told = [await limiter.take(requests(3)) for _ in range(5)]
        assert sum(isinstance(answer, Ticket) for answer in told) == 3

    run(f"redis://127.0.0.1:{free_port()}/0", scenario)


def test_a_url_that_cannot_be_is_not_repeated() -> None:
    with pytest.raises(EmbedserveError, match="redis_url is no URL") as caught:
        SharedLimiter("http://user:hidden@host")
    assert "hidden" not in str(caught.value)
