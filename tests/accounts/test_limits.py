from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedserve.accounts.limits import Demand, MemoryLimiter, Refusal, Ticket, demand

pytestmark = pytest.mark.quick


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def requests(per_minute: int, per_second: bool = False) -> list[Demand]:
    return [demand("key:k", "requests", 1, per_minute, per_second)]


def tokens(cost: int, per_minute: int, per_second: bool = False) -> list[Demand]:
    return [demand("key:k", "tokens", cost, per_minute, per_second)]


def admitted(limiter: MemoryLimiter, demands: list[Demand], times: int) -> int:
    return sum(isinstance(limiter.try_take(demands), Ticket) for _ in range(times))


def test_a_minute_admits_exactly_its_number_and_says_when_the_next_fits() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    assert admitted(limiter, requests(100), 200) == 100
    clock.now += 20.5
    refusal = limiter.try_take(requests(100))
    assert refusal == Refusal("requests", 40)
    clock.now += 39
    assert admitted(limiter, requests(100), 1) == 0
    clock.now += 1
    assert admitted(limiter, requests(100), 200) == 100


def test_a_second_admits_a_sixtieth() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    assert admitted(limiter, requests(600, per_second=True), 50) == 10
    assert limiter.try_take(requests(600, per_second=True)) == Refusal("requests", 1)
    clock.now += 1
    assert admitted(limiter, requests(600, per_second=True), 50) == 10


def test_one_request_bigger_than_a_second_passes_when_the_second_is_unused() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    assert isinstance(limiter.try_take(tokens(500, 6000, per_second=True)), Ticket)
    assert limiter.try_take(tokens(1, 6000, per_second=True)) == Refusal("tokens", 1)
    clock.now += 1
    assert isinstance(limiter.try_take(tokens(1, 6000, per_second=True)), Ticket)


def test_one_request_bigger_than_the_minute_never_passes() -> None:
    limiter = MemoryLimiter(Clock())
    assert limiter.try_take(tokens(6001, 6000)) == Refusal("tokens", 60)


def test_all_or_nothing() -> None:
    limiter = MemoryLimiter(Clock())
    both = [demand("key:k", "requests", 1, 100, False), demand("key:k", "tokens", 60, 100, False)]
    assert isinstance(limiter.try_take(both), Ticket)
    assert limiter.try_take(both) == Refusal("tokens", 60)
    assert admitted(limiter, requests(100), 200) == 99  # the refused one took no request


def test_what_is_given_back_can_be_taken_again() -> None:
    async def scenario() -> None:
        clock = Clock()
        limiter = MemoryLimiter(clock)
        ticket = await limiter.take(tokens(100, 100))
        assert isinstance(ticket, Ticket)
        clock.now += 5
        await limiter.give(ticket, [(ticket.demands[0], 40)])
        assert isinstance(await limiter.take(tokens(40, 100)), Ticket)
        assert isinstance(await limiter.take(tokens(1, 100)), Refusal)
        clock.now += 60  # long forgotten: giving back changes nothing
        await limiter.give(ticket, [(ticket.demands[0], 60)])
        assert isinstance(await limiter.take(tokens(101, 100)), Refusal)
        assert isinstance(await limiter.take(tokens(100, 100)), Ticket)

    asyncio.run(scenario())


def test_counters_that_nobody_uses_are_forgotten() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    for number in range(1000):
        limiter.try_take([demand(f"key:{number}", "requests", 1, 10, False)])
    clock.now += 121
    limiter.try_take(requests(1))
    assert len(limiter._counters) == 1


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=60),
    st.integers(1, 200),
    st.booleans(),
)
def test_no_sixty_seconds_ever_hold_more_than_the_limit(
    steps: list[tuple[int, int]], per_minute: int, per_second: bool
) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    taken: list[tuple[int, int]] = []
    for wait, cost in steps:
        clock.now += wait
        if isinstance(limiter.try_take(tokens(cost, per_minute, per_second)), Ticket):
            taken.append((int(clock.now), cost))
    for end, _ in taken:
        assert sum(cost for second, cost in taken if end - 60 < second <= end) <= per_minute
        share = max([-(-per_minute // 60), *[cost for second, cost in taken if second == end][:1]])
        if per_second:
            assert sum(cost for second, cost in taken if second == end) <= share
