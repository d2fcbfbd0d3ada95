"""What has been spent: the budgets of keys and the free tokens of models.

Totals live in memory and are raised by every commit of this process; what other nodes add is read from the
database twice a second. On one node no budget and no free quota is ever exceeded, because work in flight is
held against it; on several, by what the others admit within that second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from embedserve.accounts.charges import Booking
from embedserve.accounts.errors import arrearage, free_tier_exhausted
from embedserve.accounts.plan import Plan
from embedserve.accounts.totals import Changes, Total, read_changes, read_totals
from embedserve.storage.tables import free_quota

STEP_WAIT = 0.1
"""Seconds that news of other nodes wait for a commit of this one."""


class Spending:
    """Checks are made on the event loop, totals are raised by whoever commits: both under one lock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.step = threading.Lock()
        """Held from before a commit until ``add`` was told of it: work is never counted twice, as held and as
        committed. Nobody reads the database under it."""
        self._lock = threading.Lock()
        self._keys: dict[str, dict[tuple[str, str], Total]] = {}  # key -> (model, door) -> total
        self._models: dict[str, int] = {}  # model -> tokens through the sync door
        self._begun: dict[str, float] = {}  # model -> when its free tokens began
        self._mark: int | None = None
        self.tracking = False
        """Whether a budget or a free quota depends on totals: from then on every commit tells them."""
        self._held: dict[str, tuple[str, float, str, int]] = {}  # request -> key, cost, model, free tokens
        self._held_keys: dict[str, float] = {}
        self._held_models: dict[str, int] = {}

    def hold(
        self, request_id: str, key_id: str, budget: float | None, model: str, tokens: int, door: str
    ) -> None:
        """Set the cost of work aside, until it is committed or let go.

        Raises:
            EmbedserveError: 400 Arrearage, or 403 AllocationQuota.FreeTierOnly.
        """
        free = self.plan.free_quota.only and door == "sync"
        cost = self.plan.cost(model, door, tokens)
        with self._lock:
            if budget is not None:
                spent = self._spent(key_id) + self._held_keys.get(key_id, 0.0)
                # A budget of 1 buys exactly 1: the tolerance is for the rounding of many small sums.
                if spent + cost > budget + 1e-9:
                    raise arrearage()
            if free:
                used = self._models.get(model, 0) + self._held_models.get(model, 0)
                ended = time.time() > self._begun.get(model, time.time()) + self.plan.free_quota.days * 86400
                if ended or used + tokens > self.plan.free_quota.tokens.get(model, 0):
                    raise free_tier_exhausted()
            self._let_go(request_id)  # a line of a batch that is tried again bears the same id
            self._held[request_id] = (key_id, cost, model, tokens if free else 0)
            self._held_keys[key_id] = self._held_keys.get(key_id, 0.0) + cost
            self._held_models[model] = self._held_models.get(model, 0) + (tokens if free else 0)

    def let_go(self, request_id: str) -> None:
        """The work has failed, or was refused later on. Unknown, or again: no effect."""
        with self._lock:
            self._let_go(request_id)

    def _let_go(self, request_id: str) -> None:
        if found := self._held.pop(request_id, None):
            key_id, cost, model, tokens = found
            self._held_keys[key_id] = max(0.0, self._held_keys[key_id] - cost)
            self._held_models[model] -= tokens

    def add(self, booking: Booking) -> None:
        """Count what has just been committed; what was held for it is let go in the same breath."""
        with self._lock:
            for charge in booking.charges:
                self._let_go(charge.request_id)
                if charge.door == "sync":
                    self._begun.setdefault(charge.model, charge.at)
            self._install(booking.totals)

    def spent(self, key_id: str) -> float:
        """By a key, in the plan's currency, as far as this process knows."""
        with self._lock:
            return self._spent(key_id)

    def _spent(self, key_id: str) -> float:
        totals = self._keys.get(key_id)
        return cost_of(self.plan, totals.values()) if totals else 0.0

    def track(self) -> None:
        """From now on; what is read after it misses no commit of this process."""
        waited = self.step.acquire(timeout=STEP_WAIT)  # one that has begun will not tell its totals
        self.tracking = True
        if waited:
            self.step.release()

    def read(self, connection: sa.Connection) -> tuple[Changes, Mapping[str, float]]:
        """What changed since the last look, by whomever, for :meth:`refresh`."""
        changes = read_changes(connection, self._mark)
        begun: dict[str, float] = {}
        if self.plan.free_quota.only:
            began = sa.select(free_quota.c.model, free_quota.c.first_used_at)
            begun = {model: at for model, at in connection.execute(began)}
        return changes, begun

    def refresh(self, changes: Changes, begun: Mapping[str, float]) -> None:
        """Take in what was read. A commit that takes long is not waited for: until it ends, its work counts
        as held and as committed, which refuses too much and never too little."""
        waited = self.step.acquire(timeout=STEP_WAIT)
        try:
            with self._lock:
                self._install(changes.rows)
                self._begun |= begun
                self._mark = changes.mark
        finally:
            if waited:
                self.step.release()

    def _install(self, totals: Iterable[Total]) -> None:
        for total in totals:
            known = self._keys.setdefault(total.key_id, {})
            old = known.get((total.model, total.door))
            if old is not None and old.version >= total.version:
                continue
            known[total.model, total.door] = total
            if total.door == "sync":
                grown = total.tokens - (old.tokens if old else 0)
                self._models[total.model] = self._models.get(total.model, 0) + grown


def cost_of(plan: Plan, totals: Iterable[Total]) -> float:
    """In the plan's currency, at list price."""
    return sum(plan.cost(total.model, total.door, total.tokens) for total in totals)


def read_spent(connection: sa.Connection, plan: Plan, key_id: str | None = None) -> dict[str, float]:
    """key -> what it has spent, from the database; of one key, or of every key that has."""
    spent: dict[str, float] = {}
    for total in read_totals(connection, key_id):
        spent[total.key_id] = spent.get(total.key_id, 0.0) + cost_of(plan, [total])
    return spent
