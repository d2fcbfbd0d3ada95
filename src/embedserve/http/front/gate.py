"""All connections together: how many, who goes first when there are too many, and whose time is up."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from embedserve.http.front.limits import HELD_BYTES, Limits, raise_descriptor_limit
from embedserve.http.front.refusal import Refused
from embedserve.settings import Settings

if TYPE_CHECKING:
    from embedserve.http.front.connection import Connection

log = logging.getLogger("embedserve.front")

SWEEP_SECONDS = 0.25
"""How often deadlines are looked at. One look at a thousand connections takes a tenth of a millisecond; a
timer a connection would have to be set and stopped several times a request."""


class Gate:
    """``uvicorn.Config(http=gate.connect)``.

    Attributes:
        ended: connections that were ended from here, by reason; for metrics.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.ended: Counter[str] = Counter()
        self._strangers: dict[Connection, None] = {}
        """No valid key was presented on these, the oldest first."""
        self._known: dict[Connection, None] = {}
        self._held = 0
        self._sweeping = False

    @classmethod
    def of(cls, settings: Settings) -> Gate:
        """As the settings want it; lifts this process's limit of descriptors."""
        return cls(Limits.of(settings, raise_descriptor_limit()))

    def connect(self, **wiring: Any) -> asyncio.Protocol:
        """A protocol for a connection that comes; the arguments are uvicorn's."""
        from embedserve.http.front.connection import Connection

        return Connection(self, **wiring)

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def admit(self, newcomer: Connection) -> None:
        """Count it in; over the limit somebody goes: the oldest stranger, else an idle one, else he himself.

        Raises:
            Refused: 503, nobody can go.
        """
        if not self._sweeping:
            self._sweeping = True
            newcomer.loop.call_later(SWEEP_SECONDS, self._sweep, newcomer.loop)
        victim = None
        if len(self) >= self.limits.connections:
            victim = next(iter(self._strangers), None) or next((c for c in self._known if c.idle), None)
            if victim:
                self.evict(victim, "connections")
        self._strangers[newcomer] = None
        if victim is None and len(self) > self.limits.connections:
            raise Refused(
                503,
                "TooManyConnections",
                f"All {self.limits.connections} connections are in use; try again, or raise "
                "EMBEDSERVE_MAX_CONNECTIONS.",
                retry_after=1,
            )

    def vouch(self, connection: Connection) -> None:
        if self._strangers.pop(connection, self) is None:
            self._known[connection] = None

    def forget(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        self._known.pop(connection, None)

    def hold(self, more: int) -> None:
        """Bytes that are no request yet became ``more``; too many, and the oldest stranger with some goes."""
        self._held += more
        if more > 0 and self._held > HELD_BYTES:
            for crowd in (self._strangers, self._known):
                victim = next((c for c in crowd if c.held), None)
                if victim is not None:
                    self.evict(victim, "memory")
                    return

    def evict(self, connection: Connection, reason: str) -> None:
        self.forget(connection)
        self.ended[reason] += 1
        log.debug("a connection was given up for others (%s)", reason)
        connection.abort()

    def abort_all(self) -> None:
        """The end of the server's patience: nobody is waited for any more."""
        for connection in [*self._strangers, *self._known]:
            connection.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [*self._strangers, *self._known]:
            if connection.deadline <= now:
                connection.expire(now)
        self._sweeping = bool(len(self))
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
