"""Properties of the queue, without a model, threads or a clock."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedserve.scheduling.batcher import (
    COMPANY_SHARE,
    ELDEST_SHARE,
    QUERY_SHARE,
    Batcher,
    Lane,
    Request,
    Unit,
)

pytestmark = pytest.mark.quick

BUDGET = 100
CALM_BUDGET = 250
CALM_AFTER = 1.5
AGE = 1.0
costs_of_a_request = st.lists(st.integers(1, 150), min_size=1, max_size=12)
lanes: st.SearchStrategy[Lane] = st.sampled_from(["interactive", "bulk"])
names = count()
unhurried = settings(deadline=None, max_examples=50)


def submit(
    batcher: Batcher[int],
    costs: list[int],
    lane: Lane = "interactive",
    owner: str = "",
    now: float = 0.0,
    keys: list[bytes] | None = None,
) -> Request[int]:
    request: Request[int] = Request(lane, owner)
    keys = keys or [b"%d" % next(names) for _ in costs]
    batcher.add(request, range(len(costs)), costs, keys, now)
    return request


def run(batcher: Batcher[int], now: float = 0.0) -> list[Unit[int]]:
    """A chunk, run at once."""
    chunk = batcher.next_chunk(now)
    batcher.finish(chunk)
    for unit in chunk:
        for request, _ in unit.seats:
            request.open -= 1
    return chunk


class AnyHistory(RuleBasedStateMachine):
    """Requests come, share windows, leave; chunks start and finish, several at once, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[int] = Batcher(
            budget=BUDGET, max_bulk_age=AGE, calm_budget=CALM_BUDGET, calm_after=CALM_AFTER
        )
        self.now = 0.0
        self.query_came_at = -CALM_AFTER
        self.requests: list[Request[int]] = []
        self.asked: dict[Request[int], Counter[int]] = {}
        self.got: dict[Request[int], Counter[int]] = {}
        self.running: list[list[Unit[int]]] = []
        self.waiting: dict[bytes, tuple[Lane, int]] = {}
        self.bulk_chunk_at = 0.0

    @rule(
        lane=lanes,
        owner=st.sampled_from("abc"),
        windows=st.lists(st.integers(0, 25), min_size=1, max_size=10),
    )
    def come(self, lane: Lane, owner: str, windows: list[int]) -> None:
        # The number of a window is its identity and, as equal windows are equally long, gives its cost.
        costs = [1 + number * 6 for number in windows]
        keys = [b"%d" % number for number in windows]
        running = {unit.key for chunk in self.running for unit in chunk}
        if lane == "bulk" and not self.waits("bulk"):
            self.bulk_chunk_at = self.now
        if lane == "interactive" and sum(costs) <= BUDGET / QUERY_SHARE:
            self.query_came_at = self.now
        for key, cost in zip(keys, costs, strict=True):
            if key not in running:
                self.waiting.setdefault(key, (lane, cost))
        request = submit(self.batcher, costs, lane, owner, self.now, keys)
        self.requests.append(request)
        self.asked[request] = Counter(range(len(windows)))
        self.got[request] = Counter()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests))
        self.requests.remove(request)
        self.batcher.withdraw(request)
        wanted = {unit.key for other in self.requests for unit in other.queue if not unit.taken}
        self.waiting = {key: value for key, value in self.waiting.items() if key in wanted}

    @rule(seconds=st.floats(0.01, 2))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start_chunk(self) -> None:
        interactive, bulk = self.waits("interactive"), self.waits("bulk")
        chunk = self.batcher.next_chunk(self.now)
        assert bool(chunk) == (interactive or bulk), "work waits, so there is a chunk"
        calm = self.now - self.query_came_at >= CALM_AFTER
        assert len(chunk) == 1 or sum(unit.cost for unit in chunk) <= (CALM_BUDGET if calm else BUDGET)
        for unit in chunk:
            assert unit.key in self.waiting, "nothing runs twice, nothing that nobody wants runs"
            del self.waiting[unit.key]
        if not any(r.lane == "interactive" for unit in chunk for r, _ in unit.seats):
            due = self.now - self.bulk_chunk_at >= AGE
            assert due or not interactive, "bulk goes before interactive work only when it is due"
            self.bulk_chunk_at = self.now
        if chunk:
            self.running.append(chunk)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish_chunk(self, data: st.DataObject) -> None:
        chunk = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.batcher.finish(chunk)
        for unit in chunk:
            for request, place in unit.seats:
                self.got[request][place] += 1
                assert unit.key == b"%d" % ((unit.cost - 1) // 6)

    def waits(self, lane: Lane) -> bool:
        return any(not unit.taken for r in self.requests if r.lane == lane for unit in r.queue)

    @invariant()
    def books_balance(self) -> None:
        for lane in ("interactive", "bulk"):
            expected = sum(cost for kind, cost in self.waiting.values() if kind == lane)
            assert self.batcher.queued[lane] == expected
        assert len(self.batcher) == len(self.waiting) + sum(map(len, self.running))

    def teardown(self) -> None:
        while self.running:
            self.finish_first()
        while chunk := self.batcher.next_chunk(self.now):
            self.running.append(chunk)
            self.finish_first()
        for request in self.requests:
            assert self.got[request] == self.asked[request], "each place gets its vector once"
        assert len(self.batcher) == 0

    def finish_first(self) -> None:
        chunk = self.running.pop(0)
        self.batcher.finish(chunk)
        for unit in chunk:
            for request, place in unit.seats:
                self.got[request][place] += 1


def test_chunks_are_large_only_while_no_queries_come() -> None:
    batcher: Batcher[int] = Batcher(
        budget=BUDGET, calm_budget=CALM_BUDGET, calm_after=CALM_AFTER, max_bulk_age=10
    )

    def next_costs(now: float) -> list[float]:
        return [unit.cost for unit in run(batcher, now)]

    submit(batcher, [40] * 40)
    submit(batcher, [10], lane="bulk")  # as small as a query, but nobody waits for it
    assert next_costs(0.0) == [40] * 6
    submit(batcher, [10], now=1.0)
    assert next_costs(1.0) == [10], "the query does not wait for what else fits"
    assert next_costs(2.4) == [40] * 2
    assert next_costs(2.5) == [40] * 6


@unhurried
@given(st.lists(costs_of_a_request, max_size=10), st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_what_runs_with_queries_is_queries_and_little_else(long: list[list[int]], queries: list[int]) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    for costs in long:
        submit(batcher, [30, *costs])
    for cost in queries:
        submit(batcher, [cost])
    while chunk := run(batcher):
        others = [unit.cost for unit in chunk if not unit.hurried]
        if len(others) < len(chunk):
            assert len(chunk) == 1 or sum(unit.cost for unit in chunk) <= BUDGET
            assert not others or chunk[0].cost == others[0] or sum(others) <= BUDGET / COMPANY_SHARE


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@unhurried
@given(st.lists(st.tuples(lanes, st.sampled_from("ab"), costs_of_a_request), min_size=1, max_size=15))
def test_windows_of_a_request_run_in_order(requests: list[tuple[Lane, str, list[int]]]) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    for lane, owner, costs in requests:
        submit(batcher, costs, lane, owner)
    seen: dict[Request[int], list[int]] = {}
    while chunk := run(batcher):
        for unit in chunk:
            seen.setdefault(unit.seats[0][0], []).append(unit.payload)
    assert all(places == list(range(len(places))) for places in seen.values())
    assert sorted(map(len, seen.values())) == sorted(len(costs) for _, _, costs in requests)


@unhurried
@given(st.lists(costs_of_a_request, max_size=10), st.integers(1, 20), st.integers(0, 30))
def test_a_query_runs_before_anything_long(long: list[list[int]], query: int, chunks_before: int) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    for costs in long:
        submit(batcher, [30, *costs])
        submit(batcher, [30, *costs], lane="bulk")
    for _ in range(chunks_before):
        run(batcher)
    request = submit(batcher, [query])
    ahead = 0.0
    while request.open:
        chunk = run(batcher)
        ahead += sum(unit.cost for unit in chunk if unit.seats[0][0] is not request)
    # The eldest may have its turn first, and what shares the query's chunk runs beside it.
    assert ahead <= 150 + BUDGET / COMPANY_SHARE
    if not long:
        assert ahead == 0


def test_a_query_beside_one_endless_request_is_in_the_next_chunk() -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    submit(batcher, [60] * 500)
    for _ in range(200):
        run(batcher)
        query = submit(batcher, [5])
        run(batcher)
        assert not query.open


@settings(deadline=None, max_examples=20)
@given(costs_of_a_request, st.lists(st.integers(8, 120), min_size=1, max_size=8))
def test_a_long_request_is_not_starved_by_queries_that_never_let_up(
    long: list[int], queries: list[int]
) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    request = submit(batcher, long)
    spent = 0.0
    while request.open:
        for cost in queries:
            submit(batcher, [cost])
        spent += sum(unit.cost for unit in run(batcher))
        assert spent <= ELDEST_SHARE * (sum(long) + 150) + BUDGET


@unhurried
@given(st.lists(st.integers(1, 120), min_size=1, max_size=5), st.integers(1, 30))
def test_bulk_gets_a_chunk_whenever_it_is_due(queries: list[int], windows: int) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET, max_bulk_age=AGE)
    bulk = submit(batcher, [50] * windows, lane="bulk")
    now = 0.0
    while bulk.open:
        for cost in queries:
            submit(batcher, [cost], now=now)
        run(batcher, now)
        now += 0.25
        assert now <= (AGE + 0.25) * (windows // 2 + 1) + 0.25


@unhurried
@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=2, max_size=5),
    st.integers(5, 60),
)
def test_owners_with_work_get_equal_shares(sizes: list[list[int]], chunks: int) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    owners = {str(i): costs for i, costs in enumerate(sizes)}
    served: Counter[str] = Counter()
    for owner, costs in owners.items():  # one asks in many small requests, another in few large ones
        for _ in range(1 + 6000 // sum(costs)):
            submit(batcher, costs, owner=owner)
    for _ in range(chunks):
        for unit in run(batcher):
            served[unit.seats[0][0].owner] += int(unit.cost)
    assert max(served[owner] for owner in owners) - min(served[owner] for owner in owners) <= 2 * 60


def test_a_pause_earns_nothing() -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    submit(batcher, [10] * 2000, owner="steady")
    for _ in range(100):
        run(batcher)
    submit(batcher, [10] * 1000, owner="late")
    served: Counter[str] = Counter(unit.seats[0][0].owner for _ in range(20) for unit in run(batcher))
    assert abs(served["steady"] - served["late"]) <= 2


def test_requests_of_one_size_run_first_come_first_served() -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    requests = [submit(batcher, [30] * 3) for _ in range(10)]
    order = [requests.index(unit.seats[0][0]) for _ in range(10) for unit in run(batcher)]
    assert order == sorted(order)


def test_a_single_window_above_the_budget_runs_alone() -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    submit(batcher, [500, 1])
    assert [unit.cost for unit in run(batcher)] == [500]
    assert [unit.cost for unit in run(batcher)] == [1]


def test_a_query_for_what_bulk_waits_for_does_not_wait_with_it() -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET)
    bulk = submit(batcher, [90, 90, 90], lane="bulk", keys=[b"x", b"y", b"z"])
    query = submit(batcher, [90], keys=[b"z"])
    assert [unit.key for unit in run(batcher)] == [b"z"]
    assert (query.open, bulk.open) == (0, 2)


@pytest.mark.parametrize("query_cost", [5, BUDGET // QUERY_SHARE])
def test_queries_overtake_many_clients_with_whole_windows(query_cost: int) -> None:
    batcher: Batcher[int] = Batcher(budget=BUDGET, quantum=300)
    clients = [submit(batcher, [110] * 10)]
    waited = []
    for turn in range(600):
        run(batcher)
        # Clients join one by one and come back when they are answered, so each is elsewhere in its share.
        clients = [client if client.open else submit(batcher, [110] * 10) for client in clients]
        if len(clients) < 8:
            clients.append(submit(batcher, [110] * 10))
        if turn % 3 == 0:
            query = submit(batcher, [query_cost])
            for chunks in range(1, 9):
                run(batcher)
                if not query.open:
                    waited.append(chunks)
                    break
    assert len(waited) == 200
    assert sum(chunks == 1 for chunks in waited) >= 180
    assert max(waited) <= 2


@unhurried
@given(
    st.lists(st.tuples(st.sampled_from("abc"), costs_of_a_request), max_size=12),
    st.sampled_from("abc"),
    costs_of_a_request,
    st.integers(0, 5),
)
def test_the_forecast_of_a_wait_comes_true(
    others: list[tuple[str, list[int]]], owner: str, costs: list[int], chunks: int
) -> None:
    """What ran before a request ended, when nobody came after it, is near what was foretold."""
    quantum, window = 300, 150  # as the scheduler has it: a quantum is two windows at least
    batcher: Batcher[int] = Batcher(budget=BUDGET, quantum=quantum)
    for name, waiting in others:
        submit(batcher, waiting, owner=name)
    for _ in range(chunks):
        run(batcher)
    total = sum(batcher.queued.values())
    foretold = batcher.ahead_of(owner, sum(costs))
    assert 0 <= foretold <= total
    request = submit(batcher, costs, owner=owner)
    ran = 0.0
    while request.open:
        ran += sum(unit.cost for unit in run(batcher))
    # A chunk is not interrupted, owners take turns by whole windows. Each request of an owner may be off by
    # a quantum and the window that ends it, and what he waits for himself the others' turns are counted by.
    requests = 1 + sum(name == owner for name, _ in others)
    owners = len({owner, *(name for name, _ in others)})
    assert abs(ran - sum(costs) - foretold) <= BUDGET + 3 * window + (quantum + window) * requests * owners
