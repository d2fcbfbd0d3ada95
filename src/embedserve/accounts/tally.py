"""What this process counted since it began, for metrics; and how many workspaces a key may open.

A key of any workspace names what it likes. Neither memory, nor ``/metrics``, nor the ledger's rows a day may
grow with what callers invent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from embedserve.accounts.charges import Charge
from embedserve.accounts.errors import too_many_workspaces

SERIES = 2_000
"""Sums that are kept apart; beyond them workspaces, and then keys, are counted together."""
OTHER = "other"

Series = tuple[str, str, str, str]


class Tally:
    """(key, workspace, model, door) -> [requests, tokens]. Written by whoever commits, one at a time."""

    def __init__(self, limit: int = SERIES) -> None:
        self._limit = limit
        self._sums: dict[Series, list[int]] = {}

    def add(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            total = self._find(charge)
            total[0] += 1
            total[1] += charge.tokens

    def _find(self, charge: Charge) -> list[int]:
        key, workspace, model, door = charge.key_id, charge.workspace, charge.model, charge.door
        for series in ((key, workspace, model, door), (key, OTHER, model, door)):
            if found := self._sums.get(series):
                return found
            room = self._limit if series[1] == workspace else 2 * self._limit
            if len(self._sums) < room:
                return self._sums.setdefault(series, [0, 0])
        return self._sums.setdefault((OTHER, OTHER, model, door), [0, 0])

    def items(self) -> list[tuple[Series, tuple[int, int]]]:
        return [(series, (total[0], total[1])) for series, total in self._sums.copy().items()]


class Workspaces:
    """Which workspaces each key has named today (UTC), as this process saw it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._day = 0
        self._named: dict[str, set[str]] = {}

    def enter(self, key_id: str, workspace: str) -> None:
        """Raises EmbedserveError (403) for one too many."""
        today = int(time.time() // 86400)
        if today != self._day:
            self._day, self._named = today, {}
        named = self._named.setdefault(key_id, set())
        if workspace in named:
            return
        if len(named) >= self._limit:
            raise too_many_workspaces(self._limit)
        named.add(workspace)
