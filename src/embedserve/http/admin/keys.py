"""``/admin/keys``: the operations of ``embedserve keys``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.keys import KeyRecord
from embedserve.http.admin.access import authorize, in_thread, read_body
from embedserve.http.context import service_of
from embedserve.http.json import reply


class NewKey(BaseModel):
    """What a key may do. Left out: no limit."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=200, description="What it is for.")
    workspace: str = Field(default="default", description="Where its work counts; * lets requests choose.")
    models: list[str] | None = Field(default=None, min_length=1, description="Only these models.")
    rpm: int | None = Field(default=None, ge=1, lt=2**31, description="Requests a minute.")
    tpm: int | None = Field(default=None, ge=1, lt=2**31, description="Tokens a minute.")
    budget: float | None = Field(default=None, ge=0, description="What it may spend, in the plan's currency.")
    expires_at: AwareDatetime | None = Field(default=None, description="From then on it is refused.")


class Rotation(BaseModel):
    """How a secret is replaced."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: float = Field(
        default=0, ge=0, le=30 * 86400, description="How long the old secret still works."
    )


class Key(BaseModel):
    """A key as it may be shown: never its secret, never its digest."""

    id: str
    name: str
    workspace: str
    prefix: str
    state: str = Field(description="active, expired or revoked")
    models: list[str] | None
    rpm: int | None
    tpm: int | None
    budget: float | None
    spent: float | None = Field(description="Of the budget, as this server knows it; null without a budget.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyWithSecret(Key):
    """The reply that shows the secret, this once."""

    secret: str


class KeyList(BaseModel):
    data: list[Key]


def _shown(record: KeyRecord, spent: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "workspace": record.workspace,
        "prefix": record.prefix,
        "state": record.state(time.time()),
        "models": None if record.models is None else sorted(record.models),
        "rpm": record.rpm,
        "tpm": record.tpm,
        "budget": record.budget,
        "spent": None if record.budget is None else spent,
        "created_at": _time(record.created_at),
        "expires_at": _time(record.expires_at),
        "revoked_at": _time(record.revoked_at),
        **more,
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


async def list_keys(request: Request) -> Response:
    """Every key, revoked ones included."""
    authorize(request)
    accounts = service_of(request).accounts
    records = await in_thread(accounts.keys.list)
    return reply({"data": [_shown(record, accounts.spending.spent(record.id)) for record in records]})


async def create_key(request: Request) -> Response:
    """Make a key; the reply shows its secret this once."""
    authorize(request)
    accounts = service_of(request).accounts
    asked = await read_body(request, NewKey)
    record, secret = await in_thread(
        accounts.create_key,
        asked.name,
        asked.workspace,
        models=asked.models,
        rpm=asked.rpm,
        tpm=asked.tpm,
        budget=asked.budget,
        expires_at=asked.expires_at.timestamp() if asked.expires_at else None,
    )
    return reply(_shown(record, 0.0, secret=secret), 201, {"cache-control": "no-store"})


async def get_key(request: Request) -> Response:
    """One key."""
    authorize(request)
    accounts = service_of(request).accounts
    record = await in_thread(accounts.keys.get, request.path_params["id"])
    return reply(_shown(record, accounts.spending.spent(record.id)))


async def revoke_key(request: Request) -> Response:
    """End a key for good: here at once, on every other node within a second."""
    authorize(request)
    accounts = service_of(request).accounts
    record = await in_thread(accounts.revoke_key, request.path_params["id"])
    return reply(_shown(record, accounts.spending.spent(record.id)))


async def rotate_key(request: Request) -> Response:
    """Give a key a new secret; the reply shows it this once."""
    authorize(request)
    accounts = service_of(request).accounts
    asked = await read_body(request, Rotation)
    record, secret = await in_thread(accounts.rotate_key, request.path_params["id"], asked.grace_seconds)
    shown = _shown(record, accounts.spending.spent(record.id), secret=secret)
    return reply(shown, headers={"cache-control": "no-store"})
