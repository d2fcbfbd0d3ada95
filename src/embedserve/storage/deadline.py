"""An end to the time that somebody waits for the database, known to the thread that works for him.

Who was told "try again" must not find later that it was done after all: a transaction whose deadline is over
begins nothing and commits nothing.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

from embedserve.storage.failures import DatabaseSilentError

GRACE = 0.5
"""Seconds beyond the database's own timeout, so that its own word comes first."""


class Deadline:
    """Of one piece of work, a point of ``time.monotonic``."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._at - time.monotonic()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._at = -1.0

    def check(self) -> None:
        """Raises DatabaseSilentError if it is over."""
        if self.left <= 0:
            raise DatabaseSilentError("the time for this work is over")


current: ContextVar[Deadline | None] = ContextVar("embedserve_deadline", default=None)
"""Of the work that this thread does; None where nobody waits, as for jobs."""
