"""Charges: one row an answered request, and its share in the sums of the day and in the totals of its key.

Everything here works inside the caller's write transaction; batch jobs use it to bill and to checkpoint in
one step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa

from embedserve.accounts.totals import Total, raise_totals
from embedserve.storage.database import upsert
from embedserve.storage.tables import free_quota, usage_daily, usage_requests

Door = Literal["sync", "batch"]

ROW = ("request_id", "at", "day", "key_id", "workspace", "model", "door", "tokens")
DAY_KEY = ("day", "key_id", "workspace", "model", "door")


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


@dataclass(frozen=True, slots=True)
class Booking:
    """What one transaction wrote: the charges that were new, and the totals of their keys after them."""

    charges: Sequence[Charge] = ()
    totals: Sequence[Total] = ()


def write_charges(connection: sa.Connection, charges: Iterable[Charge]) -> Booking:
    """Write charges in the caller's write transaction."""
    # In one order everywhere, so that two nodes can never wait for one another.
    ordered = sorted({charge.request_id: charge for charge in charges}.values(), key=lambda c: c.request_id)
    if not ordered:
        return Booking()
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
    entries = [(c.day, c.key_id, c.workspace, c.model, c.door, 1, c.tokens) for c in new]
    return Booking(new, _add_to_sums(connection, entries))


class SeenBeforeError(Exception):
    """A charge that was thought to be new is in the ledger already: roll back and use ``write_charges``."""


def write_fresh_charges(
    connection: sa.Connection, charges: Sequence[Charge], *, tell: bool = True
) -> Booking:
    """Write charges that are new as far as anybody knows: half the work of :func:`write_charges`.

    The statements are the same, rendered once and handed to the driver: on the path of every request,
    SQLAlchemy's care for each execution would cost more than the database.

    Args:
        tell: bring the totals back; without, the booking has none.

    Raises:
        SeenBeforeError: one was not new; the transaction must be rolled back.
    """
    dialect = connection.dialect
    ordered = sorted(charges, key=lambda c: c.request_id)
    rows = [(c.request_id, c.at, c.day, c.key_id, c.workspace, c.model, c.door, c.tokens) for c in ordered]
    written = _execute(connection, _render(dialect, _insert_requests_silently(dialect.name)), ROW, rows)
    if written != len(rows):
        raise SeenBeforeError
    sums: dict[tuple[Any, ...], list[int]] = {}
    for _, _, day, key_id, workspace, model, door, tokens in rows:
        total = sums.setdefault((day, key_id, workspace, model, door), [0, 0])
        total[0] += 1
        total[1] += tokens
    days = [(*key, *sums[key]) for key in sorted(sums)]
    _execute(connection, _render(dialect, _raise_days(dialect.name)), (*DAY_KEY, "requests", "tokens"), days)
    totals: dict[tuple[str, str, str], int] = {}
    for _, key_id, _, model, door, _, tokens in days:
        totals[key_id, model, door] = totals.get((key_id, model, door), 0) + tokens
    return Booking(charges, raise_totals(connection, totals, tell=tell))


def _execute(
    connection: sa.Connection, statement: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Rows changed."""
    if connection.dialect.name == "sqlite":  # positional, and no dates of its own
        plain = [tuple(x.isoformat() if isinstance(x, date) else x for x in row) for row in rows]
        return connection.exec_driver_sql(statement, plain).rowcount
    return connection.exec_driver_sql(
        statement, [dict(zip(names, row, strict=True)) for row in rows]
    ).rowcount


@cache
def _insert_requests_silently(dialect: str) -> Any:
    return upsert(dialect, usage_requests).on_conflict_do_nothing(index_elements=["request_id"])


@cache
def _render(dialect: sa.Dialect, statement: Any) -> str:
    """The driver's SQL, with parameters in the order of the columns."""
    names = ROW if statement.table is usage_requests else (*DAY_KEY, "requests", "tokens")
    compiled = statement.values({name: sa.bindparam(name) for name in names}).compile(dialect=dialect)
    positions = getattr(compiled, "positiontup", None)
    assert positions is None or tuple(positions) == names
    return str(compiled)


def reverse_charges(connection: sa.Connection, request_ids: Iterable[str]) -> list[Total]:
    """Take back charges whose replies were never sent; unknown ids are no error. The totals after it."""
    columns = usage_requests.c
    rows = connection.execute(
        sa.delete(usage_requests)
        .where(columns.request_id.in_(list(request_ids)))
        .returning(
            columns.day, columns.key_id, columns.workspace, columns.model, columns.door, columns.tokens
        )
    ).all()
    return _add_to_sums(connection, [(*row[:5], -1, -row[5]) for row in rows])


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


def _add_to_sums(
    connection: sa.Connection, entries: Sequence[tuple[date, str, str, str, str, int, int]]
) -> list[Total]:
    """Raise the sums of the days and the totals of the keys; the totals as they are then."""
    sums: dict[tuple[date, str, str, str, str], list[int]] = {}
    totals: dict[tuple[str, str, str], int] = {}
    for day, key_id, workspace, model, door, requests, tokens in entries:
        total = sums.setdefault((day, key_id, workspace, model, door), [0, 0])
        total[0] += requests
        total[1] += tokens
        totals[key_id, model, door] = totals.get((key_id, model, door), 0) + tokens
    if not sums:
        return []
    connection.execute(
        _raise_days(connection.dialect.name),
        [
            dict(zip(DAY_KEY, key, strict=True)) | {"requests": sums[key][0], "tokens": sums[key][1]}
            for key in sorted(sums)
        ],
    )
    return raise_totals(connection, totals)


def begin_free_quota(connection: sa.Connection, first_used: dict[str, float]) -> None:
    """Note when models were first used; the first note stays."""
    insert = upsert(connection.dialect.name, free_quota).on_conflict_do_nothing(index_elements=["model"])
    connection.execute(insert, [{"model": m, "first_used_at": first_used[m]} for m in sorted(first_used)])
