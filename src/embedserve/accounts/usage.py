"""Reports from the ledger: what was used, and what it would have cost."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Literal, get_args

import sqlalchemy as sa

from embedserve.accounts.bounds import is_key_id, is_workspace, known_models, refuse, show
from embedserve.accounts.keys import no_such_key
from embedserve.accounts.plan import Plan
from embedserve.errors import EmbedserveError
from embedserve.storage.database import Database
from embedserve.storage.tables import api_keys, usage_daily

DAY_PATTERN = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
By = Literal["key", "workspace", "model", "day"]
GROUPS: tuple[str, ...] = get_args(By)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of one group. ``cny`` and ``usd``: at list price, had it been billed.

    Attributes:
        group: the key's id, the workspace, the model, or the day (UTC, ISO).
        name: the key's name when grouped by key, otherwise empty.
    """

    group: str
    name: str
    requests: int
    tokens: int
    batch_requests: int
    batch_tokens: int
    cny: float
    usd: float


def report(
    database: Database,
    plan: Plan,
    by: str = "key",
    *,
    since: date | None = None,
    until: date | None = None,
    key_id: str | None = None,
    workspace: str | None = None,
    model: str | None = None,
) -> list[UsageRow]:
    """Usage by group, in the order of the group.

    Args:
        since, until: first and last day, both included.
        key_id, workspace, model: of this one only.

    Raises:
        EmbedserveError: an unknown group, days in the wrong order; 404 for a key, workspace or model that
            does not exist.
    """
    if by not in GROUPS:
        raise refuse(f"Usage by {show(by)} is not kept: choose {', '.join(GROUPS)}.")
    if since is not None and until is not None and since > until:
        raise refuse(f"The first day, {since}, comes after the last, {until}.")
    column = usage_daily.c.key_id if by == "key" else usage_daily.c[by]
    query = sa.select(
        column.label("grouped"),
        usage_daily.c.model,
        usage_daily.c.door,
        sa.func.sum(usage_daily.c.requests).label("requests"),
        sa.func.sum(usage_daily.c.tokens).label("tokens"),
    ).group_by(column, usage_daily.c.model, usage_daily.c.door)
    if since is not None:
        query = query.where(usage_daily.c.day >= since)
    if until is not None:
        query = query.where(usage_daily.c.day <= until)
    for name, value in (("key_id", key_id), ("workspace", workspace), ("model", model)):
        if value is not None:
            query = query.where(usage_daily.c[name] == value)
    with database.read() as connection:
        _check_filters(connection, key_id, workspace, model)
        names = {key: name for key, name in connection.execute(sa.select(api_keys.c.id, api_keys.c.name))}
        found = connection.execute(query).all()
    rows: dict[str, UsageRow] = {}
    for grouped, name, door, requests, tokens in found:
        group, count, amount = str(grouped), int(requests), int(tokens)
        if not count and not amount:
            continue  # everything of that day was taken back
        price, batch = plan.price_of(name), door == "batch"
        old = rows.get(group) or UsageRow(
            group, names.get(group, "") if by == "key" else "", 0, 0, 0, 0, 0, 0
        )
        rows[group] = UsageRow(
            group,
            old.name,
            old.requests + count,
            old.tokens + amount,
            old.batch_requests + count * batch,
            old.batch_tokens + amount * batch,
            old.cny + price.cny(amount, door),
            old.usd + price.usd(amount, door),
        )
    return [rows[group] for group in sorted(rows)]


def _check_filters(
    connection: sa.Connection, key_id: str | None, workspace: str | None, model: str | None
) -> None:
    """An empty report for a name that was mistyped would be believed. Raises EmbedserveError (404)."""

    def seen(column: sa.Column[str], value: str) -> bool:
        return connection.execute(sa.select(column).where(column == value).limit(1)).first() is not None

    if key_id is not None and not (
        is_key_id(key_id) and (seen(api_keys.c.id, key_id) or seen(usage_daily.c.key_id, key_id))
    ):
        raise no_such_key(key_id)
    if workspace is not None and not (
        is_workspace(workspace)
        and (seen(api_keys.c.workspace, workspace) or seen(usage_daily.c.workspace, workspace))
    ):
        raise _nothing(f"No key and no work belongs to the workspace {show(workspace)}.")
    if model is not None and not (
        model in known_models()
        or (model.isascii() and model.isprintable() and seen(usage_daily.c.model, model))
    ):
        names = ", ".join(sorted(known_models()))
        raise _nothing(f"There is no model {show(model)}: choose from {names}.")


def _nothing(message: str) -> EmbedserveError:
    return EmbedserveError(message, status=404, code="NotFound")


def as_csv(rows: Iterable[UsageRow], by: str) -> str:
    """With a header line; the first column is named after the group."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([by, *(field.name for field in fields(UsageRow)[1:])])
    for row in rows:
        cells: Sequence[object] = list(asdict(row).values())
        writer.writerow([_harmless(c) if isinstance(c, str) else _figure(c) for c in cells])
    return text.getvalue()


def _figure(value: object) -> object:
    return f"{value:.6f}" if isinstance(value, float) else value


def _harmless(cell: str) -> str:
    """A key may have any name; a spreadsheet must not take it for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell
