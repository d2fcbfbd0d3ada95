"""``embedserve keys``: make, list, change, revoke and rotate API keys.

Works on the database itself, whether a server runs or not; running servers follow within a second.
"""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from embedserve.accounts.bounds import LAST_MOMENT, refuse, show
from embedserve.accounts.keys import KeyChanges, KeyRecord, KeyStore
from embedserve.accounts.plan import Plan
from embedserve.accounts.shown import describe_all, describe_one
from embedserve.cli.database import DatabaseUrl, DataDir, open_database, print_table, read_settings
from embedserve.errors import EmbedserveError
from embedserve.storage.database import Database

app = typer.Typer(help="Make, list, change, revoke and rotate API keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
PlanFile = Annotated[Path | None, typer.Option(help="Prices, for what is spent; default: EMBEDSERVE_PLAN.")]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)([smhdw])", re.ASCII)
NONE = "none"
LIMITS = ("models", "rpm", "tpm", "spent", "budget", "expires_at")
SHOWN = ("id", "name", "workspace", "prefix", "state", *LIMITS)


def parse_duration(text: str) -> float:
    """``90d``, ``12h``, ``30m``, ``45s``, ``2w`` in seconds. Raises EmbedserveError."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise refuse(f"{show(text)} is no duration: write 45s, 30m, 12h, 90d or 2w.")
    return float(found[1]) * UNITS[found[2]]


def parse_expiry(text: str) -> float | None:
    """A duration from now, or an ISO date or time (UTC unless it says otherwise), in seconds since 1970."""
    if text.strip().lower() == NONE:
        return None
    if _DURATION.fullmatch(text.strip()):
        return min(time.time() + parse_duration(text), 2 * LAST_MOMENT)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise refuse(f"{show(text)} is no expiry: write 90d, or a date like 2030-01-31.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_count(label: str, text: str) -> int | None:
    if text.strip().lower() == NONE:
        return None
    if not re.fullmatch(r"[+-]?\d{1,1000}", text.strip(), re.ASCII):
        raise refuse(f"{label} is {show(text)}: write a whole number, or none for no limit.")
    return int(text)


def parse_budget(text: str) -> float | None:
    if text.strip().lower() == NONE:
        return None
    try:
        return float(text)
    except ValueError:
        raise refuse(f"budget is {show(text)}: write a number, or none for no limit.") from None


def parse_models(text: str) -> list[str] | None:
    """Names with commas between."""
    if text.strip().lower() == NONE:
        return None
    return [model.strip() for model in text.split(",") if model.strip()]


def read_prices(data_dir: Path | None, database_url: str | None) -> Plan | None:
    """The server's plan; a broken one is told, and keeps nobody from pausing or replacing a key."""
    try:
        return Plan.read(read_settings(data_dir, database_url).plan)
    except EmbedserveError as error:
        print(f"embedserve: what is spent is not shown. {error.message}", file=sys.stderr)
        return None


def hand_over(database: Database, plan: Plan | None, record: KeyRecord, secret: str, as_json: bool) -> None:
    """The secret alone on standard output, so that KEY=$(embedserve keys create) works."""
    if as_json:
        print(json.dumps(describe_one(database, plan, record) | {"secret": secret}))
        return
    print(f"{record.id} in workspace {record.workspace}. The key, shown this once:", file=sys.stderr)
    print(secret)


def _limits(
    models: str | None, rpm: str | None, tpm: str | None, budget: str | None, expires: str | None
) -> KeyChanges:
    """The options that were given, as what they stand for."""
    given = KeyChanges()
    if models is not None:
        given["models"] = parse_models(models)
    if rpm is not None:
        given["rpm"] = parse_count("rpm", rpm)
    if tpm is not None:
        given["tpm"] = parse_count("tpm", tpm)
    if budget is not None:
        given["budget"] = parse_budget(budget)
    if expires is not None:
        given["expires_at"] = parse_expiry(expires)
    return given


Name = Annotated[str | None, typer.Option(help="What it is for.")]
Models = Annotated[str | None, typer.Option(help="Only these models, with commas between; none: all.")]
Rpm = Annotated[str | None, typer.Option(help="Requests a minute; none: no limit.")]
Tpm = Annotated[str | None, typer.Option(help="Tokens a minute; none: no limit.")]
Budget = Annotated[
    str | None, typer.Option(help="What it may spend in all (plan's currency); none: no limit.")
]
Expires = Annotated[str | None, typer.Option(help="90d, 12h, or a date like 2030-01-31; none: never.")]


@app.command()
def create(
    name: Name = None,
    workspace: Annotated[
        str, typer.Option(help="Where its work counts; * lets requests choose.")
    ] = "default",
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    budget: Budget = None,
    expires: Expires = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it this once."""
    limits: dict[str, Any] = {**_limits(models, rpm, tpm, budget, expires)}
    plan = read_prices(data_dir, database_url) if as_json else None
    with open_database(data_dir, database_url) as database:
        record, secret = KeyStore(database).create(name or "", workspace, **limits)
        hand_over(database, plan, record, secret, as_json)


@app.command("list")
def list_(
    plan: PlanFile = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: Json = False
) -> None:
    """Show every key, revoked ones included, and what each has spent."""
    rules = Plan.read(plan or read_settings(data_dir, database_url).plan)
    with open_database(data_dir, database_url, must_exist=True) as database:
        rows = describe_all(database, rules)
    if as_json:
        print(json.dumps(rows))
        return
    print_table(SHOWN, [[_cell(row[name]) for name in SHOWN] for row in rows])


@app.command()
def update(
    key_id: str,
    name: Name = None,
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    budget: Budget = None,
    expires: Expires = None,
    pause: Annotated[bool | None, typer.Option("--pause/--resume", help="Refuse the key for now.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Change what a key may do; servers follow within a second. What is not named stays as it is."""
    changes = _limits(models, rpm, tpm, budget, expires)
    if name is not None:
        changes["name"] = name
    if pause is not None:
        changes["paused"] = pause
    if not changes:
        raise refuse("Nothing to change: give at least one of the options that `keys update --help` lists.")
    _change(key_id, changes, data_dir, database_url, as_json)


@app.command()
def pause(
    key_id: str, data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: Json = False
) -> None:
    """Refuse a key until it is resumed."""
    _change(key_id, KeyChanges(paused=True), data_dir, database_url, as_json)


@app.command()
def resume(
    key_id: str, data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: Json = False
) -> None:
    """Let a paused key work again."""
    _change(key_id, KeyChanges(paused=False), data_dir, database_url, as_json)


@app.command()
def revoke(key_id: str, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """End a key for good; servers refuse it within a second."""
    with open_database(data_dir, database_url, must_exist=True) as database:
        shown = describe_one(database, None, KeyStore(database).revoke(key_id))
    print(f"{shown['id']} was revoked at {shown['revoked_at']}", file=sys.stderr)


@app.command()
def rotate(
    key_id: str,
    grace: Annotated[str, typer.Option(help="How long the old secret still works: 1h, 2d.")] = "0s",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and show it this once."""
    plan = read_prices(data_dir, database_url) if as_json else None
    with open_database(data_dir, database_url, must_exist=True) as database:
        record, secret = KeyStore(database).rotate(key_id, parse_duration(grace))
        hand_over(database, plan, record, secret, as_json)


def _change(
    key_id: str, changes: KeyChanges, data_dir: Path | None, database_url: str | None, as_json: bool
) -> None:
    plan = read_prices(data_dir, database_url)
    with open_database(data_dir, database_url, must_exist=True) as database:
        shown = describe_one(database, plan, KeyStore(database).update(key_id, changes))
    if as_json:
        print(json.dumps(shown))
        return
    told = ", ".join(f"{name} {_cell(shown[name]) or NONE}" for name in LIMITS)
    print(f"{shown['id']} is {shown['state']}: {told}", file=sys.stderr)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return "" if value is None else ",".join(value) if isinstance(value, list) else str(value)
