"""Keys as they may be shown: what they may do, how they are, and what they have spent."""

from __future__ import annotations

from typing import Any

from embedserve.accounts.bounds import format_time
from embedserve.accounts.keys import KeyRecord, KeyStore, read_keys
from embedserve.accounts.plan import Plan
from embedserve.accounts.spending import read_spent
from embedserve.storage.database import Database


def describe(record: KeyRecord, spent: float | None) -> dict[str, Any]:
    """By name, ready for JSON; never a secret, never a digest.

    Args:
        spent: in the plan's currency, at list price; None where prices are not known.
    """
    return {
        "id": record.id,
        "name": record.name,
        "workspace": record.workspace,
        "prefix": record.prefix,
        "state": record.state(),
        "models": None if record.models is None else sorted(record.models),
        "rpm": record.rpm,
        "tpm": record.tpm,
        "budget": record.budget,
        "spent": None if spent is None else round(spent, 9),
        "created_at": format_time(record.created_at),
        "expires_at": _time(record.expires_at),
        "paused_at": _time(record.paused_at),
        "revoked_at": _time(record.revoked_at),
    }


def describe_all(database: Database, plan: Plan) -> list[dict[str, Any]]:
    """Every key, oldest first, revoked ones included. Blocks."""
    with database.read() as connection:
        spent = read_spent(connection, plan)
        return [describe(record, spent.get(record.id, 0.0)) for record in read_keys(connection)]


def describe_one(database: Database, plan: Plan | None, record: KeyRecord | str) -> dict[str, Any]:
    """A key that was just changed, or the one with an id. Blocks. Raises EmbedserveError (404)."""
    if isinstance(record, str):
        record = KeyStore(database).get(record)
    if plan is None:
        return describe(record, None)
    with database.read() as connection:
        return describe(record, read_spent(connection, plan, record.id).get(record.id, 0.0))


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(seconds)
