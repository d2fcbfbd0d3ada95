"""Rate limits: how many requests and tokens a minute, and a sixtieth of that a second.

Work is reserved before it begins and settled after: a reservation is one decision over every limit that
applies (key, workspace, model; requests and tokens), taken as a whole or not at all. Libraries that count
one limit at a time cannot promise that, nor give back what was not used; hence this module.

A limit counts in slots of one second over the last sixty. A request is let through when the current slot
stays within its share of the minute (a sixtieth, rounded up) and the sixty slots within the whole. One
request that is bigger than a second's share is let through when its second is otherwise unused: that is the
burst which the per-second rule implies. One that is bigger than the minute can never pass.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

WINDOW = 60

Unit = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request asks of one limit.

    Attributes:
        name: of the counter, e.g. ``key:key_1:tokens``.
        cost: requests (1) or tokens.
        per_minute: the limit.
        per_second: its share of a second; None if seconds are not held to it.
    """

    name: str
    unit: Unit
    cost: int
    per_minute: int
    per_second: int | None


def demand(scope: str, unit: Unit, cost: int, per_minute: int, per_second: bool) -> Demand:
    return Demand(f"{scope}:{unit}", unit, cost, per_minute, -(-per_minute // WINDOW) if per_second else None)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was taken, and from which second of the counter's clock.

    Attributes:
        remote: held by a shared counter, not by this process.
    """

    demands: tuple[Demand, ...]
    second: int
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The limit that stands in the way, and seconds until it would not."""

    unit: Unit
    retry_after: float


class Limiter(Protocol):
    """Counts somewhere. ``give`` returns part of what a ticket holds: (demand, amount) pairs."""

    async def take(self, demands: Sequence[Demand]) -> Ticket | Refusal: ...

    async def give(self, ticket: Ticket, amounts: Sequence[tuple[Demand, int]]) -> None: ...

    async def close(self) -> None: ...


class Counter:
    """Uses of one limit in the last minute: (second, used) pairs, oldest first."""

    __slots__ = ("slots", "used")

    def __init__(self) -> None:
        self.slots: deque[list[int]] = deque()
        self.used = 0

    def forget(self, now: int) -> None:
        while self.slots and self.slots[0][0] <= now - WINDOW:
            self.used -= self.slots.popleft()[1]

    def wait(self, demand: Demand, now: int) -> int:
        """Seconds until ``demand`` fits; 0 if it does now."""
        self.forget(now)
        current = self.slots[-1][1] if self.slots and self.slots[-1][0] == now else 0
        excess = self.used + demand.cost - demand.per_minute
        if excess > 0:
            for second, used in self.slots:
                excess -= used
                if excess <= 0:
                    return second + WINDOW - now
            return WINDOW
        share = demand.per_second
        if share is not None and current and current + min(demand.cost, share) > share:
            return 1
        return 0

    def add(self, amount: int, second: int) -> None:
        """Change the slot of ``second``, unless it is forgotten."""
        if self.slots and self.slots[-1][0] == second:
            self.slots[-1][1] += amount
            self.used += amount
        elif amount > 0 and (not self.slots or self.slots[-1][0] < second):
            self.slots.append([second, amount])
            self.used += amount
        else:
            for slot in self.slots:
                if slot[0] == second:
                    slot[1] += amount
                    self.used += amount


class MemoryLimiter:
    """Limits of one process, on a clock that nobody can set. Used from one event loop, so without locks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters: dict[str, Counter] = {}
        self._swept = 0

    def try_take(self, demands: Sequence[Demand]) -> Ticket | Refusal:
        now = int(self._clock())
        self._sweep(now)
        counters = [self._counters.setdefault(demand.name, Counter()) for demand in demands]
        for counter, demand in zip(counters, demands, strict=True):
            if wait := counter.wait(demand, now):
                return Refusal(demand.unit, wait)
        for counter, demand in zip(counters, demands, strict=True):
            counter.add(demand.cost, now)
        return Ticket(tuple(demands), now)

    async def take(self, demands: Sequence[Demand]) -> Ticket | Refusal:
        return self.try_take(demands)

    async def give(self, ticket: Ticket, amounts: Sequence[tuple[Demand, int]]) -> None:
        for demand, amount in amounts:
            if counter := self._counters.get(demand.name):
                counter.add(-amount, ticket.second)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _sweep(self, now: int) -> None:
        """Forget counters that nobody used for a minute, so that their number stays bounded."""
        if now - self._swept < WINDOW:
            return
        self._swept = now
        for name, counter in list(self._counters.items()):
            counter.forget(now)
            if not counter.slots:
                del self._counters[name]
