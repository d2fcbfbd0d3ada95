"""What has been spent: the budgets of keys and the free tokens of models.

Sums live in memory and are raised by every commit of this process; what other nodes add is read from the
ledger once a second. On one node no budget and no free quota is ever exceeded, because work in flight is
held against it; on several, by what the others admit within that second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from embedserve.accounts.charges import Charge
from embedserve.accounts.errors import arrearage, free_tier_exhausted
from embedserve.accounts.plan import Plan
from embedserve.storage.tables import free_quota, usage_daily


class Spending:
    """Checks are made on the event loop, sums are raised by the ledger's thread: both under one lock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.step = threading.Lock()
        """Held from before a commit until ``add`` was told of it, and while ``refresh`` reads: what it reads
        and what was added are then the same commits."""
        self._lock = threading.Lock()
        self._keys: dict[str, float] = {}  # key -> cost
        self._models: dict[str, int] = {}  # model -> tokens through the sync door
        self._begun: dict[str, float] = {}  # model -> when its free tokens began
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
                spent = self._keys.get(key_id, 0.0) + self._held_keys.get(key_id, 0.0)
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

    def add(self, charges: Sequence[Charge]) -> None:
        """Count what has just been committed; what was held for it is let go in the same breath."""
        with self._lock:
            for c in charges:
                self._let_go(c.request_id)
                cost = self.plan.cost(c.model, c.door, c.tokens)
                self._keys[c.key_id] = self._keys.get(c.key_id, 0.0) + cost
                if c.door == "sync":
                    self._models[c.model] = self._models.get(c.model, 0) + c.tokens
                    self._begun.setdefault(c.model, c.at)

    def spent(self, key_id: str) -> float:
        with self._lock:
            return self._keys.get(key_id, 0.0)

    def refresh(self, connection: sa.Connection, key_ids: Collection[str]) -> None:
        """Read the sums of every node; the caller holds ``step``."""
        columns = usage_daily.c
        tokens = sa.func.sum(columns.tokens)
        by_key = connection.execute(
            sa.select(columns.key_id, columns.model, columns.door, tokens)
            .where(columns.key_id.in_(list(key_ids)))
            .group_by(columns.key_id, columns.model, columns.door)
        ).all()
        keys: dict[str, float] = {}
        for key_id, model, door, total in by_key:
            keys[key_id] = keys.get(key_id, 0.0) + self.plan.cost(model, door, int(total))
        models: dict[str, int] = {}
        begun: dict[str, float] = {}
        if self.plan.free_quota.only:
            by_model = sa.select(columns.model, tokens).where(columns.door == "sync").group_by(columns.model)
            models = {model: int(total) for model, total in connection.execute(by_model)}
            began = sa.select(free_quota.c.model, free_quota.c.first_used_at)
            begun = {model: at for model, at in connection.execute(began)}
        with self._lock:
            self._keys |= dict.fromkeys(key_ids, 0.0) | keys
            self._models |= models
            self._begun |= begun
