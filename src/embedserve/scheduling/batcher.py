"""Which windows run next: a pure object without threads, event loop, model or clock.

Three rules, from the outside in:

* *Lanes.* Bulk work runs only in chunks that no interactive work asked for, so a query overtakes it at
  the next chunk boundary. A bulk lane that waited ``max_bulk_age`` seconds gets one chunk nevertheless.
* *Owners* inside a lane share it evenly: the one that was served least goes first (start-time fair
  queueing; one who comes back from a pause starts level with the others and has saved nothing up).
* *Requests* of one owner go by the virtual time at which their next quantum would end if all of them ran
  side by side (weighted fair queueing). A short request ends early in virtual time and overtakes a long
  one; inside its quantum a request is not interrupted by its equals, so requests of one size run first
  come, first served instead of all ending together. Queries go before all of these: with whole quanta
  many requests are always behind their share, and a query would wait until each had caught up. One part
  in 32 of the work at least goes to the request that came first, so that even a flood of short ones
  cannot keep a long one from its end.

A *query* is an interactive request of at most a quarter of a chunk. What runs in the chunk that answers it is
part of its wait, as is what it finds running:

* A chunk with queries takes along other work for a quarter of its budget only.
* When no query came for ``calm_after`` seconds, chunks grow to ``calm_budget``: larger ones occupy the cores
  better, and all who wait then wait for several chunks anyway.

The unit of work is one *distinct* window. Requests that ask for the same window while it waits or runs
share one :class:`Unit`, and the first turn that any of them gets serves all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from typing import Final, Generic, Literal, TypeVar

Lane = Literal["interactive", "bulk"]
T = TypeVar("T")

QUERY_SHARE: Final = 4
"""A request of at most one part in this many of a chunk's budget is a query."""
COMPANY_SHARE: Final = 4
"""A chunk with queries holds other work only as long as it is below one part in this many of its budget."""
ELDEST_SHARE: Final = 32
"""One part in this many of an owner's work at least goes to the request that came first."""


@dataclass(slots=True, eq=False)
class Unit(Generic[T]):
    """One distinct window and the places its vector goes to."""

    key: bytes
    payload: T
    cost: float
    lane: Lane
    seats: list[tuple[Request[T], int]] = field(default_factory=list)
    taken: bool = False

    @property
    def hurried(self) -> bool:
        """Whether a query waits for it."""
        return any(request.query for request, _ in self.seats)


@dataclass(slots=True, eq=False)
class Request(Generic[T]):
    """What one caller waits for; ``open`` windows of it are still to come."""

    lane: Lane = "interactive"
    owner: str = ""
    queue: deque[Unit[T]] = field(default_factory=deque)
    open: int = 0
    total: float = 0.0
    served: float = 0.0
    start: float = 0.0
    withdrawn: bool = False
    query: bool = False

    def next_unit(self) -> Unit[T] | None:
        """The first window that neither started with somebody else nor was given up by all."""
        queue = self.queue
        while queue and (queue[0].taken or not queue[0].seats):
            queue.popleft()
        return queue[0] if queue else None

    @property
    def left(self) -> float:
        """Cost of what has not started."""
        return self.total - self.served

    def quantum_end(self, quantum: float) -> float:
        """Virtual time at which the quantum in progress would end."""
        return self.start + min(self.total, (self.served // quantum + 1) * quantum)


class VirtualTime:
    """Passes by the work done, divided by how many compete for it.

    It runs one piece of work behind: who comes while a piece runs starts level with that piece, hence
    before whatever would have followed it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._pending = 0.0

    def pass_by(self, cost: float, competitors: int) -> None:
        self.now += self._pending
        self._pending = cost / max(1, competitors)

    def reset(self) -> None:
        self.now = self._pending = 0.0


class OwnerQueue(Generic[T]):
    """The waiting requests of one owner in one lane."""

    def __init__(self, served: float) -> None:
        self.served = served
        self.time = VirtualTime()
        self._heap: list[tuple[bool, float, float, int, Request[T]]] = []
        self._arrivals: deque[Request[T]] = deque()
        self._passed_over = 0.0
        """Cost that ran before the eldest request since it was last served."""

    def add(self, request: Request[T], order: int, quantum: float) -> None:
        request.start = self.time.now
        self._arrivals.append(request)
        self._push(request, order, quantum)

    def ahead_of(self, cost: float, query: bool, quantum: float) -> float:
        """Cost that would run before a new request of this cost ended, itself not counted."""
        share = ceil(cost / quantum) * quantum
        waiting = [request for request in self._arrivals if request.queue and (request.query or not query)]
        return sum(request.left if request.query else min(request.left, share) for request in waiting)

    @property
    def left(self) -> float:
        """Cost that waits."""
        return sum(request.left for request in self._arrivals if request.queue)

    def peek(self, quantum: float) -> Unit[T] | None:
        """The next unit; requests with nothing left to start are dropped on the way."""
        heap, arrivals = self._heap, self._arrivals
        while arrivals and not arrivals[0].next_unit():
            arrivals.popleft()
        if not arrivals:
            heap.clear()
            self.time.reset()
            return None
        eldest = arrivals[0].next_unit()
        if eldest and self._passed_over >= (ELDEST_SHARE - 1) * eldest.cost:
            return eldest
        while not (unit := heap[0][-1].next_unit()) or heap[0][1] < heap[0][-1].quantum_end(quantum):
            *_, order, request = heappop(heap)
            if unit:  # it was served as the eldest meanwhile
                self._push(request, order, quantum)
        return unit

    def take(self, quantum: float) -> Unit[T]:
        """Take the unit that :meth:`peek` shows."""
        unit = self.peek(quantum)
        assert unit is not None
        eldest = self._arrivals[0]
        self.time.pass_by(unit.cost, len(self._heap))
        if eldest.next_unit() is unit:
            request = eldest
            self._passed_over = max(0.0, self._passed_over - ELDEST_SHARE * unit.cost)
        else:
            request = self._heap[0][-1]
            self._passed_over += unit.cost
        request.queue.popleft()
        request.served += unit.cost
        if self._heap[0][-1] is request:
            *_, order, _ = heappop(self._heap)
            if request.queue:
                self._push(request, order, quantum)
        return unit

    def _push(self, request: Request[T], order: int, quantum: float) -> None:
        # Between equals the one with less left goes first: it was started, or it is shorter.
        heappush(self._heap, (not request.query, request.quantum_end(quantum), request.left, order, request))


class LaneQueue(Generic[T]):
    """The owners that wait in one lane."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.owners: dict[str, OwnerQueue[T]] = {}
        self.heap: list[tuple[float, int, str]] = []
        self.waiting: set[str] = set()

    def add(self, request: Request[T], order: int, quantum: float) -> None:
        queue = self.owners.get(request.owner)
        if queue is None:
            queue = self.owners[request.owner] = OwnerQueue(self.time.now)
        queue.add(request, order, quantum)
        if request.owner not in self.waiting:
            queue.served = max(queue.served, self.time.now)
            self.waiting.add(request.owner)
            heappush(self.heap, (queue.served, order, request.owner))

    def peek(self, quantum: float) -> Unit[T] | None:
        """The next unit; owners with nothing left to start are dropped on the way."""
        while self.heap:
            owner = self.heap[0][2]
            unit = self.owners[owner].peek(quantum)
            if unit is not None:
                return unit
            heappop(self.heap)
            self.waiting.discard(owner)
            if self.owners[owner].served <= self.time.now:
                del self.owners[owner]  # nothing to remember: it would start level with the others anyway
        self.owners.clear()
        self.time.reset()
        return None

    def ahead_of(self, owner: str, cost: float, query: bool, quantum: float) -> float:
        """Cost that would run before a new request ended: of its owner's, and as much of each other's."""
        own = self.owners.get(owner)
        turns = own.ahead_of(cost, query, quantum) if own else 0.0
        others = (queue.left for name, queue in self.owners.items() if name != owner)
        return turns + sum(min(left, turns + cost) for left in others)

    def take(self, quantum: float) -> Unit[T]:
        _, order, owner = heappop(self.heap)
        queue = self.owners[owner]
        unit = queue.take(quantum)
        self.time.pass_by(unit.cost, len(self.heap) + 1)
        queue.served += unit.cost
        heappush(self.heap, (queue.served, order, owner))
        return unit


class Batcher(Generic[T]):
    """The queue. Not thread-safe: whoever shares it between threads holds a lock.

    Args:
        budget: cost that a chunk may sum to; a single unit above it runs alone. May be changed at any time.
        quantum: cost that a request may run for before its equals get a turn; the budget if omitted.
        max_bulk_age: seconds that waiting bulk work goes without a chunk at most.
        calm_budget: cost that a chunk may sum to in calm; the budget if omitted. May be changed, too.
        calm_after: seconds without a query until it is calm.
    """

    def __init__(
        self,
        *,
        budget: float,
        quantum: float | None = None,
        max_bulk_age: float = 1.0,
        calm_budget: float | None = None,
        calm_after: float = 1.0,
    ) -> None:
        self.budget = budget
        self.calm_budget = budget if calm_budget is None else calm_budget
        self.calm_after = calm_after
        self.quantum = quantum
        self.max_bulk_age = max_bulk_age
        self.queued: dict[Lane, float] = {"interactive": 0.0, "bulk": 0.0}
        """Cost of the distinct windows that wait, by lane."""
        self._lanes: dict[Lane, LaneQueue[T]] = {"interactive": LaneQueue(), "bulk": LaneQueue()}
        self._units: dict[bytes, Unit[T]] = {}
        self._bulk_waits_since = 0.0
        self._query_came_at = -inf
        self._order = count()

    def __len__(self) -> int:
        """Distinct windows that wait or run."""
        return len(self._units)

    def add(
        self,
        request: Request[T],
        payloads: Sequence[T],
        costs: Sequence[float],
        keys: Sequence[bytes],
        now: float,
        places: Sequence[int] | None = None,
    ) -> int:
        """Queue a request.

        Args:
            payloads: the windows, with the cost (above zero) and the identity of each; equal keys mean
                equal vectors.
            places: the row of each window in the caller's result; counted from 0 if omitted.

        Returns:
            how many windows were already waiting or running for somebody.
        """
        shared = 0
        if request.lane == "interactive" and sum(costs) <= self.budget / QUERY_SHARE:
            request.query = True
            self._query_came_at = now
        for i, (payload, cost, key) in enumerate(zip(payloads, costs, keys, strict=True)):
            unit = self._units.get(key)
            if unit is None:
                unit = self._units[key] = Unit(key, payload, cost, request.lane)
                self.queued[request.lane] += cost
            else:
                shared += 1
            unit.seats.append((request, i if places is None else places[i]))
            if not unit.taken:
                request.queue.append(unit)
                request.total += cost
        request.open += len(payloads)
        if request.queue:
            if request.lane == "bulk" and not self._peek("bulk"):
                self._bulk_waits_since = now
            self._lanes[request.lane].add(request, next(self._order), self.quantum or self.budget)
        return shared

    def ahead_of(self, owner: str, cost: float) -> float:
        """Cost that would run before a new interactive request of this cost ended, itself not counted: a
        forecast, since what comes later may overtake it. Takes time with the number of waiting requests."""
        query = cost <= self.budget / QUERY_SHARE
        return self._lanes["interactive"].ahead_of(owner, cost, query, self.quantum or self.budget)

    def withdraw(self, request: Request[T]) -> None:
        """Forget a request: what of it has not started will not run unless somebody else asked too."""
        request.withdrawn = True
        for unit in request.queue:
            if not unit.taken and unit.seats:
                unit.seats = [seat for seat in unit.seats if seat[0] is not request]
                if not unit.seats:
                    self._drop(unit)
        request.queue.clear()

    def next_chunk(self, now: float) -> list[Unit[T]]:
        """The units to run now, of one lane, in order; empty when nothing waits."""
        aged = self._peek("bulk") and now - self._bulk_waits_since >= self.max_bulk_age
        lane: Lane = "bulk" if aged or not self._peek("interactive") else "interactive"
        if lane == "bulk":
            self._bulk_waits_since = now
        calm = now - self._query_came_at >= self.calm_after
        return self._fill(lane, self.calm_budget if calm else self.budget)

    def finish(self, units: Sequence[Unit[T]]) -> None:
        """Say that these units of a chunk have run (or failed): the same windows would be computed anew."""
        for unit in units:
            self._units.pop(unit.key, None)

    def _peek(self, lane: Lane) -> Unit[T] | None:
        return self._lanes[lane].peek(self.quantum or self.budget)

    def _fill(self, lane: Lane, room: float) -> list[Unit[T]]:
        chunk: list[Unit[T]] = []
        cost, hurried = 0.0, False
        while unit := self._peek(lane):
            hurried = hurried or unit.hurried
            limit = self.budget / COMPANY_SHARE if hurried and not unit.hurried else room
            if chunk and cost + unit.cost > limit:
                break
            self._lanes[lane].take(self.quantum or self.budget)
            unit.taken = True
            cost += unit.cost
            self.queued[unit.lane] -= unit.cost
            chunk.append(unit)
        return chunk

    def _drop(self, unit: Unit[T]) -> None:
        self.queued[unit.lane] -= unit.cost
        del self._units[unit.key]
