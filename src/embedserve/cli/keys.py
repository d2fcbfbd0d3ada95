"""``embedserve keys``: make, list, revoke and rotate API keys.

Works on the database itself, whether a server runs or not; running servers follow within a second.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from embedserve.accounts.keys import KeyRecord, KeyStore
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database

app = typer.Typer(help="Make, list, revoke and rotate API keys.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Where keys, usage and jobs are kept.")]
DatabaseUrl = Annotated[
    str | None, typer.Option(help="postgresql://…; better given as EMBEDSERVE_DATABASE_URL.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def read_settings(data_dir: Path | None, database_url: str | None) -> Settings:
    given: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url}
    return Settings(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def open_database(data_dir: Path | None, database_url: str | None) -> Iterator[Database]:
    settings = read_settings(data_dir, database_url)
    url = settings.database_url.get_secret_value() if settings.database_url else None
    database = Database.open(
        settings.data_dir, url, timeout=settings.database_timeout, sync=settings.database_sync
    )
    try:
        yield database
    finally:
        database.close()


def parse_duration(text: str) -> float:
    """``90d``, ``12h``, ``30m``, ``45s``, ``2w`` in seconds. Raises EmbedserveError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found:
        raise EmbedserveError(f"{text!r} is no duration: write 45s, 30m, 12h, 90d or 2w.")
    return float(found[1]) * UNITS[found[2]]


def parse_expiry(text: str) -> float:
    """A duration from now, or an ISO date or time (UTC unless it says otherwise), in seconds since 1970."""
    if re.fullmatch(r"\d+(?:\.\d+)?[smhdw]", text.strip()):
        return time.time() + parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise EmbedserveError(f"{text!r} is no expiry: write 90d, or a date like 2030-01-31.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def describe_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(record: KeyRecord) -> dict[str, Any]:
    """What may be shown of a key, by name; never a digest."""
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
        "created_at": describe_time(record.created_at),
        "expires_at": describe_time(record.expires_at),
        "revoked_at": describe_time(record.revoked_at),
    }


def hand_over(record: KeyRecord, secret: str, as_json: bool) -> None:
    """The secret alone on standard output, so that KEY=$(embedserve keys create) works."""
    if as_json:
        print(json.dumps(describe(record) | {"secret": secret}))
        return
    print(f"{record.id} in workspace {record.workspace}. The key, shown this once:", file=sys.stderr)
    print(secret)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    workspace: Annotated[
        str, typer.Option(help="Where its work counts; * lets requests choose.")
    ] = "default",
    models: Annotated[str | None, typer.Option(help="Only these models, with commas between.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    budget: Annotated[float | None, typer.Option(help="What it may spend in all (plan's currency).")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, or a date like 2030-01-31.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it this once."""
    with open_database(data_dir, database_url) as database:
        record, secret = KeyStore(database).create(
            name,
            workspace,
            models=[model.strip() for model in models.split(",") if model.strip()] if models else None,
            rpm=rpm,
            tpm=tpm,
            budget=budget,
            expires_at=parse_expiry(expires) if expires else None,
        )
    hand_over(record, secret, as_json)


@app.command("list")
def list_(data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: Json = False) -> None:
    """Show every key, revoked ones included."""
    with open_database(data_dir, database_url) as database:
        rows = [describe(record) for record in KeyStore(database).list()]
    if as_json:
        print(json.dumps(rows))
        return
    shown = ("id", "name", "workspace", "prefix", "state", "models", "rpm", "tpm", "budget", "expires_at")
    print_table(shown, [["" if row[n] is None else _cell(row[n]) for n in shown] for row in rows])


@app.command()
def revoke(key_id: str, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """End a key for good; servers refuse it within a second."""
    with open_database(data_dir, database_url) as database:
        record = KeyStore(database).revoke(key_id)
    print(f"{record.id} was revoked at {describe_time(record.revoked_at)}", file=sys.stderr)


@app.command()
def rotate(
    key_id: str,
    grace: Annotated[str, typer.Option(help="How long the old secret still works: 1h, 2d.")] = "0s",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and show it this once."""
    with open_database(data_dir, database_url) as database:
        record, secret = KeyStore(database).rotate(key_id, parse_duration(grace))
    hand_over(record, secret, as_json)


def print_table(header: tuple[str, ...], rows: list[list[str]]) -> None:
    widths = [max(len(header[i]), *(len(row[i]) for row in rows), 0) for i in range(len(header))]
    for cells in (list(header), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
