"""The ledger: every answered request's tokens, once.

:func:`write_charges` and :func:`reverse_charges` work inside the caller's transaction; batch jobs use them to
bill and to checkpoint in one step. :class:`Ledger` gathers the charges of concurrent requests and commits
them as a group: one wait for the disk serves everybody who waits.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from embedserve.accounts.errors import ledger_unavailable
from embedserve.storage.database import Database, upsert
from embedserve.storage.tables import free_quota, usage_daily, usage_requests

log = logging.getLogger("embedserve.accounts")

Door = Literal["sync", "batch"]

DAY_KEY = ("day", "key_id", "workspace", "model", "door")

GROUP = 512
"""Most charges in one commit."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One answered request. ``request_id`` is unique: a charge that is written twice counts once.

    Attributes:
        at: seconds since 1970; its day in UTC is the day of the ledger.
    """

    request_id: str
    key_id: str
    workspace: str
    model: str
    tokens: int
    door: Door = "sync"
    at: float = field(default_factory=time.time)

    @property
    def day(self) -> date:
        return datetime.fromtimestamp(self.at, UTC).date()


def write_charges(connection: sa.Connection, charges: Iterable[Charge]) -> list[Charge]:
    """Write charges in the caller's write transaction; those that were new."""
    # In one order everywhere, so that two nodes can never wait for one another.
    ordered = sorted({charge.request_id: charge for charge in charges}.values(), key=lambda c: c.request_id)
    if not ordered:
        return []
    dialect = connection.dialect.name
    rows = connection.execute(
        _insert_requests(dialect),
        [
            {
                "request_id": c.request_id,
                "at": c.at,
                "day": c.day,
                "key_id": c.key_id,
                "workspace": c.workspace,
                "model": c.model,
                "door": c.door,
                "tokens": c.tokens,
            }
            for c in ordered
        ],
    )
    written = set(rows.scalars())
    new = [charge for charge in ordered if charge.request_id in written]
    _add_to_days(connection, [(c.day, c.key_id, c.workspace, c.model, c.door, 1, c.tokens) for c in new])
    return new


def reverse_charges(connection: sa.Connection, request_ids: Iterable[str]) -> None:
    """Take back charges whose replies were never sent; unknown ids are no error."""
    columns = usage_requests.c
    rows = connection.execute(
        sa.delete(usage_requests)
        .where(columns.request_id.in_(list(request_ids)))
        .returning(
            columns.day, columns.key_id, columns.workspace, columns.model, columns.door, columns.tokens
        )
    ).all()
    _add_to_days(connection, [(*row[:5], -1, -row[5]) for row in rows])


@cache
def _insert_requests(dialect: str) -> Any:
    insert = upsert(dialect, usage_requests).on_conflict_do_nothing(index_elements=["request_id"])
    return insert.returning(usage_requests.c.request_id)


@cache
def _raise_days(dialect: str) -> Any:
    insert = upsert(dialect, usage_daily)
    return insert.on_conflict_do_update(
        index_elements=DAY_KEY,
        set_={
            "requests": usage_daily.c.requests + insert.excluded.requests,
            "tokens": usage_daily.c.tokens + insert.excluded.tokens,
        },
    )


def _add_to_days(
    connection: sa.Connection, entries: Sequence[tuple[date, str, str, str, str, int, int]]
) -> None:
    sums: dict[tuple[date, str, str, str, str], list[int]] = {}
    for *key, requests, tokens in entries:
        total = sums.setdefault(tuple(key), [0, 0])  # type: ignore[arg-type]
        total[0] += requests
        total[1] += tokens
    if not sums:
        return
    connection.execute(
        _raise_days(connection.dialect.name),
        [
            dict(zip(DAY_KEY, key, strict=True)) | {"requests": sums[key][0], "tokens": sums[key][1]}
            for key in sorted(sums)
        ],
    )


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
        on_commit: told of every group of new charges, in the writer's thread.
    """

    def __init__(
        self,
        database: Database,
        *,
        timeout: float = 5.0,
        keep_days: float = 7,
        on_commit: Callable[[Sequence[Charge]], None] | None = None,
    ) -> None:
        self.database = database
        self.timeout = timeout
        self.keep_days = keep_days
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
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
            self._queue.put(None)
            self._thread.join(2 * self.timeout)
            self._thread = None

    async def record(self, charge: Charge) -> None:
        """Return when the charge is on the disk.

        Raises:
            EmbedserveError: 503, it could not be written in time. Nothing is billed then.
        """
        entry = _Entry(charge, asyncio.get_running_loop())
        self._queue.put(entry)
        try:
            async with asyncio.timeout(self.timeout):
                await entry.future
        except TimeoutError:
            if self._withdraw(entry):
                raise ledger_unavailable(self.timeout) from None
        except BaseException:
            self._withdraw(entry)
            raise

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
        pause = 0.02
        while waiting or self._doubtful:
            try:
                self._commit(waiting)
                return
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                # Nobody knows whether it was committed. Trying again is safe: ids are unique.
                if pause == 0.02:
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
        """Wait for one charge and take every other that is there; false at the end."""
        wait = 0.5 if self._doubtful else None
        try:
            first = self._queue.get(timeout=wait)
        except queue.Empty:
            return [], True
        group: list[_Entry] = []
        while first is not None:
            group.append(first)
            if len(group) == GROUP:
                return group, True
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, entries: Sequence[_Entry]) -> None:
        charges = [entry.charge for entry in entries]
        doubtful = self._doubtful
        fresh = {c.model: c.at for c in charges if c.door == "sync" and c.model not in self._begun_models}
        with self.database.write() as connection:
            if doubtful:
                reverse_charges(connection, doubtful)
            new = write_charges(connection, charges)
            if fresh:
                begin_free_quota(connection, fresh)
            if time.monotonic() - self._pruned_at > 60:
                self._prune(connection)
        self._doubtful = set()
        self._begun_models |= set(fresh)
        with self._verdict:
            for entry in entries:
                entry.durable = not entry.withdrawn
            self._doubtful = {entry.charge.request_id for entry in entries if entry.withdrawn}
        if self._on_commit and new:
            self._on_commit([c for c in new if c.request_id not in self._doubtful])
        self._tell([entry for entry in entries if entry.durable], None)

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


def begin_free_quota(connection: sa.Connection, first_used: dict[str, float]) -> None:
    """Note when models were first used; the first note stays."""
    insert = upsert(connection.dialect.name, free_quota).on_conflict_do_nothing(index_elements=["model"])
    connection.execute(insert, [{"model": m, "first_used_at": first_used[m]} for m in sorted(first_used)])
