"""``/admin/usage``: what the ledger says."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.usage import By, as_csv, report
from embedserve.http.admin.access import authorize, in_thread, validate
from embedserve.http.context import service_of
from embedserve.http.json import reply


class UsageQuery(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(extra="ignore")

    by: By = Field(default="key", description="What is summed up.")
    since: date | None = Field(default=None, description="First day (UTC).")
    until: date | None = Field(default=None, description="Last day.")
    key: str | None = Field(default=None, description="Only this key (its id).")
    format: Literal["json", "csv"] = Field(default="json", description="Of the reply.")


class UsageRow(BaseModel):
    """Answered work of one group; ``cny`` and ``usd`` at list price, had it been billed."""

    group: str
    name: str
    requests: int
    tokens: int
    batch_requests: int
    batch_tokens: int
    cny: float
    usd: float


class UsageReport(BaseModel):
    by: By
    data: list[UsageRow]


async def get_usage(request: Request) -> Response:
    """Requests and tokens by key, workspace, model or day."""
    authorize(request)
    asked = validate(UsageQuery, dict(request.query_params))
    accounts = service_of(request).accounts
    rows = await in_thread(
        report,
        accounts.database,
        accounts.plan,
        asked.by,
        since=asked.since,
        until=asked.until,
        key_id=asked.key,
    )
    if asked.format == "csv":
        return Response(as_csv(rows, asked.by), media_type="text/csv")
    return reply({"by": asked.by, "data": [asdict(row) for row in rows]})
