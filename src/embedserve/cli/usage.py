"""``embedserve usage``: what the ledger says."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from embedserve.accounts.bounds import refuse, show
from embedserve.accounts.plan import Plan
from embedserve.accounts.usage import DAY_PATTERN, UsageRow, as_csv, report
from embedserve.cli.database import DatabaseUrl, DataDir, open_database, print_table, read_settings


def usage(
    by: Annotated[str, typer.Option(help="key, workspace, model or day.")] = "key",
    since: Annotated[str | None, typer.Option(help="First day (UTC), like 2030-01-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key (its id).")] = None,
    workspace: Annotated[str | None, typer.Option(help="Only this workspace.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header line.")] = False,
    plan: Annotated[Path | None, typer.Option(help="Prices; default: EMBEDSERVE_PLAN.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Requests and tokens that were answered, and what they would have cost at list price."""
    rules = Plan.read(plan or read_settings(data_dir, database_url).plan)
    first, last = _day(since), _day(until)
    with open_database(data_dir, database_url, must_exist=True) as database:
        rows = report(
            database, rules, by, since=first, until=last, key_id=key, workspace=workspace, model=model
        )
    if csv:
        print(as_csv(rows, by), end="")
        return
    names = [field.name for field in fields(UsageRow)]
    sums = {n: sum(getattr(row, n) for row in rows) for n in names[2:]}
    print_table((by, *names[1:]), [_cells(row) for row in [*rows, UsageRow("total", "", **sums)]])


def _cells(row: UsageRow) -> list[str]:
    return [f"{value:.4f}" if isinstance(value, float) else str(value) for value in asdict(row).values()]


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        if DAY_PATTERN.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise refuse(f"{show(text)} is no day: write it like 2030-01-31.")
