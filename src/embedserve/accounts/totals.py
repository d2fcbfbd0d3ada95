"""What each key has used in all: a row a key, model and door, raised in the transaction of the charges.

A row counts its changes (``version``), so that whoever read it earlier never overwrites whoever read it
later. ``changed`` finds the rows that changed lately, whatever the number of keys and the length of their
history: on SQLite, where writers take turns, it grows from transaction to transaction; PostgreSQL's
transactions end in any order, so there it is the number of the transaction, and a reader goes back to the
oldest one that was still open when it last looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import sqlalchemy as sa

from embedserve.storage.tables import key_totals


class Total(NamedTuple):
    """A row as it was at one moment. ``tokens``: since the key was made."""

    key_id: str
    model: str
    door: str
    tokens: int
    version: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows that changed since an earlier look, and the mark for the next one."""

    rows: Sequence[Total]
    mark: int


def raise_totals(
    connection: sa.Connection, amounts: Mapping[tuple[str, str, str], int], *, tell: bool = True
) -> list[Total]:
    """Add tokens (less than none takes back) to the rows of (key, model, door).

    Args:
        tell: return the rows as they are then, which costs more than to write them.
    """
    if not amounts:
        return []
    # In one order everywhere, so that two nodes can never wait for one another.
    values = tuple(value for place in sorted(amounts) for value in (*place, amounts[place]))
    done = connection.exec_driver_sql(_raise(connection.dialect.name, len(amounts), tell), values)
    return [Total(*row) for row in done] if tell else []


@lru_cache(maxsize=64)
def _raise(dialect: str, rows: int, tell: bool) -> str:
    """The statement for so many rows. It is run for every request: rendered once, handed to the driver."""
    if dialect == "postgresql":
        row = "(%s, %s, %s, %s, 1, txid_current())"
    else:
        row = "(?, ?, ?, ?, 1, (SELECT coalesce(max(changed), 0) + 1 FROM key_totals))"
    return (
        "INSERT INTO key_totals (key_id, model, door, tokens, version, changed) "
        f"VALUES {', '.join([row] * rows)} "
        "ON CONFLICT (key_id, model, door) DO UPDATE SET tokens = key_totals.tokens + excluded.tokens, "
        "version = key_totals.version + 1, changed = excluded.changed"
        + (" RETURNING key_id, model, door, tokens, version" if tell else "")
    )


def read_changes(connection: sa.Connection, mark: int | None) -> Changes:
    """The rows that changed since ``mark``, or all of them; a few may come again."""
    columns = key_totals.c
    query = sa.select(columns.key_id, columns.model, columns.door, columns.tokens, columns.version)
    if connection.dialect.name == "postgresql":
        # The mark before the rows: what is committed between the two is read now and again next time.
        snapshot = sa.func.txid_current_snapshot()
        first, end = connection.execute(
            sa.select(sa.func.txid_snapshot_xmin(snapshot), sa.func.txid_snapshot_xmax(snapshot))
        ).one()
        if mark is not None:
            # Numbers of the future come from another cluster, with a dump: they are no news.
            query = query.where(columns.changed >= mark, columns.changed < end)
    else:
        first = connection.execute(sa.select(sa.func.coalesce(sa.func.max(columns.changed), 0))).scalar_one()
        if mark is not None:
            query = query.where(columns.changed > mark)
    return Changes([Total(*row) for row in connection.execute(query)], int(first))


def read_totals(connection: sa.Connection, key_id: str | None = None) -> list[Total]:
    """Of one key, or of every key."""
    columns = key_totals.c
    query = sa.select(columns.key_id, columns.model, columns.door, columns.tokens, columns.version)
    if key_id is not None:
        query = query.where(columns.key_id == key_id)
    return [Total(*row) for row in connection.execute(query)]
