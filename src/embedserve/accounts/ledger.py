"""The ledger: every answered request's tokens, once.

:class:`Ledger` gathers the charges of concurrent requests and commits them as a group: one transaction serves
everybody who waits. What a charge is and how it is written: :mod:`embedserve.accounts.charges`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from embedserve.accounts.charges import (
    Booking,
    Charge,
    SeenBeforeError,
    begin_free_quota,
    reverse_charges,
    write_charges,
    write_fresh_charges,
)
from embedserve.accounts.errors import ledger_unavailable
from embedserve.storage.database import Database
from embedserve.storage.tables import usage_requests

log = logging.getLogger("embedserve.accounts")

GROUP = 512
"""A commit takes no further charges when it has this many."""
FIRST_PAUSE = 0.02
"""Seconds before a commit is tried again; then twice as long, up to a second."""


class _Entry:
    """A charge on its way to the disk."""

    __slots__ = ("charge", "durable", "future", "loop", "withdrawn")

    def __init__(self, charge: Charge, loop: asyncio.AbstractEventLoop) -> None:
        self.charge = charge
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.durable = False
        self.withdrawn = False


class Ledger:
    """Commits charges in groups from one thread.

    Args:
        timeout: seconds after which a request stops waiting; its charge is then taken back.
        keep_days: how long the rows of single requests are kept; the sums by day stay for good.
        on_commit: told of every group that was written, in the writer's thread.
        tracks: whether anybody wants to know the totals of keys after a commit.
        step: held from before a commit until ``on_commit`` was told of it.
    """

    def __init__(
        self,
        database: Database,
        *,
        timeout: float = 5.0,
        keep_days: float = 7,
        on_commit: Callable[[Booking], None] | None = None,
        tracks: Callable[[], bool] = lambda: True,
        step: threading.Lock | None = None,
    ) -> None:
        self.database = database
        self.timeout = timeout
        self.keep_days = keep_days
        self._on_commit = on_commit
        self._tracks = tracks
        self._step = step or threading.Lock()
        self._arrived: dict[asyncio.AbstractEventLoop, list[_Entry]] = {}  # in this turn of each loop
        self._queue: queue.SimpleQueue[list[_Entry] | None] = queue.SimpleQueue()
        self._verdict = threading.Lock()  # between "it is on the disk" and "nobody waits any more"
        self._doubtful: set[str] = set()  # withdrawn, but an attempt to commit may have got through
        self._begun_models: set[str] = set()
        self._pruned_at = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="embedserve-ledger", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is queued, then end. Blocks for at most twice the timeout."""
        if self._thread is not None:
            for loop in list(self._arrived):
                self._hand_over(loop)
            self._queue.put(None)
            self._thread.join(2 * self.timeout)
            self._thread = None

    async def record(self, charge: Charge) -> None:
        """Return when the charge is on the disk.

        Raises:
            EmbedserveError: 503, it could not be written in time. Nothing is billed then.
        """
        loop = asyncio.get_running_loop()
        entry = _Entry(charge, loop)
        # Requests of one chunk end in one turn of the loop: handed over together they share a commit, and one
        # that is alone waits for nobody.
        arrived = self._arrived.setdefault(loop, [])
        arrived.append(entry)
        if len(arrived) == 1:
            loop.call_soon(self._hand_over, loop)
        try:
            async with asyncio.timeout(self.timeout):
                await entry.future
        except TimeoutError:
            if self._withdraw(entry):
                raise ledger_unavailable(self.timeout) from None
        except BaseException:
            self._withdraw(entry)
            raise

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if arrived := self._arrived.pop(loop, None):
            self._queue.put(arrived)

    def _withdraw(self, entry: _Entry) -> bool:
        """False if it was too late: the charge is durable and the reply may go out."""
        with self._verdict:
            entry.withdrawn = not entry.durable
            return entry.withdrawn

    def _run(self) -> None:
        going = True
        while going:
            group, going = self._gather()
            self._write(group)

    def _write(self, group: list[_Entry]) -> None:
        """Commit a group; again and again as long as somebody waits for it."""
        waiting = [entry for entry in group if not entry.withdrawn]
        pause = FIRST_PAUSE
        while waiting or self._doubtful:
            try:
                self._commit(waiting, retried=pause > FIRST_PAUSE)
                return
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                # Nobody knows whether it was committed. Trying again is safe: ids are unique.
                if pause == FIRST_PAUSE:
                    log.warning("the ledger cannot be written (%s): trying again", type(error).__name__)
            except Exception as error:
                log.exception("a group of the ledger was refused")
                self._tell(waiting, error)
                return
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            tried, waiting = waiting, []
            for entry in tried:
                if entry.withdrawn:
                    self._doubtful.add(entry.charge.request_id)
                else:
                    waiting.append(entry)
            if not waiting:
                return  # what is doubtful is taken back when the database answers again

    def _gather(self) -> tuple[list[_Entry], bool]:
        """Wait for charges and take every other that is there; false at the end."""
        wait = 0.5 if self._doubtful else None
        group: list[_Entry] = []
        try:
            arrived = self._queue.get(timeout=wait)
            while arrived is not None:
                group += arrived
                if len(group) >= GROUP:
                    return group, True
                arrived = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _commit(self, entries: Sequence[_Entry], retried: bool) -> None:
        charges = [entry.charge for entry in entries]
        doubtful = self._doubtful
        fresh = {c.model: c.at for c in charges if c.door == "sync" and c.model not in self._begun_models}
        with self._step:
            try:
                booking = self._transact(charges, doubtful, fresh, seen=bool(doubtful) or retried)
            except SeenBeforeError:
                booking = self._transact(charges, doubtful, fresh, seen=True)
            self._begun_models |= set(fresh)
            with self._verdict:
                for entry in entries:
                    entry.durable = not entry.withdrawn
                self._doubtful = {entry.charge.request_id for entry in entries if entry.withdrawn}
            if self._on_commit and (booking.charges or booking.totals):
                answered = [c for c in booking.charges if c.request_id not in self._doubtful]
                self._on_commit(Booking(answered, booking.totals))
        self._tell([entry for entry in entries if entry.durable], None)

    def _transact(
        self, charges: Sequence[Charge], doubtful: Iterable[str], fresh: dict[str, float], *, seen: bool
    ) -> Booking:
        """One transaction. ``seen``: some of the charges may have been written before."""
        booking, reversed_totals = Booking(), []
        with self.database.write() as connection:
            if doubtful:
                reversed_totals = reverse_charges(connection, doubtful)
            if seen:
                booking = write_charges(connection, charges)
            elif charges:
                booking = write_fresh_charges(connection, charges, tell=self._tracks())
            if fresh:
                begin_free_quota(connection, fresh)
            if time.monotonic() - self._pruned_at > 60:
                self._prune(connection)
        return Booking(booking.charges, [*reversed_totals, *booking.totals])

    def _prune(self, connection: sa.Connection) -> None:
        """Drop a slice of old request rows: a bounded piece of work now and then, never one long delete."""
        self._pruned_at = time.monotonic()
        oldest = sa.select(usage_requests.c.id).order_by(usage_requests.c.id).limit(20_000).subquery()
        connection.execute(
            sa.delete(usage_requests).where(
                usage_requests.c.id.in_(sa.select(oldest.c.id)),
                usage_requests.c.at < time.time() - self.keep_days * 86400,
            )
        )

    def _tell(self, entries: Sequence[_Entry], error: Exception | None) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for entry in entries:
            loops.setdefault(entry.loop, []).append(entry.future)
        for loop, futures in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures, error)
            except RuntimeError:  # the loop has ended, and with it everybody who waited
                log.debug("nobody waits for %d charges any more", len(futures))


def _resolve(futures: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
