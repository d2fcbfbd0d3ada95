"""``/admin/usage``: what the ledger says."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.usage import DAY_PATTERN, By, as_csv, report
from embedserve.http.admin.access import authorize, validate
from embedserve.http.context import service_of
from embedserve.http.json import reply


def _only_iso(value: object) -> object:
    if isinstance(value, str) and not DAY_PATTERN.fullmatch(value):
        raise ValueError("a day is written like 2030-01-31")
    return value


Day = Annotated[date, BeforeValidator(_only_iso)]


class UsageQuery(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(extra="forbid")

    by: By = Field(default="key", description="What is summed up.")
    since: Day | None = Field(default=None, description="First day (UTC).")
    until: Day | None = Field(default=None, description="Last day.")
    key: str | None = Field(default=None, description="Only this key (its id).")
    workspace: str | None = Field(default=None, description="Only this workspace.")
    model: str | None = Field(default=None, description="Only this model.")
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

    def render() -> Response:
        rows = report(
            accounts.database,
            accounts.plan,
            asked.by,
            since=asked.since,
            until=asked.until,
            key_id=asked.key,
            workspace=asked.workspace,
            model=asked.model,
        )
        if asked.format == "csv":
            return Response(as_csv(rows, asked.by), media_type="text/csv")
        return reply({"by": asked.by, "data": [asdict(row) for row in rows]})

    return await accounts.database.run(render)
