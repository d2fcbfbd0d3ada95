"""``/admin/keys``: the operations of ``embedserve keys``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.bounds import BUDGET_LIMIT, COUNT_LIMIT, NAME_LIMIT
from embedserve.accounts.keys import MAX_GRACE, KeyChanges, KeyRecord
from embedserve.accounts.shown import describe_all, describe_one
from embedserve.http.admin.access import authorize, read_body
from embedserve.http.context import service_of
from embedserve.http.json import reply

UNSTORED = {"cache-control": "no-store"}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:")


def _only_iso(value: object) -> object:
    """A number could be seconds or milliseconds: it is not guessed at."""
    if value is not None and not (isinstance(value, str) and _MOMENT.match(value)):
        raise ValueError("a time is written like 2030-01-31T00:00:00Z")
    return value


Count = Annotated[int, Field(strict=True, ge=1, le=COUNT_LIMIT)]
Budget = Annotated[float, Field(strict=True, ge=0, le=BUDGET_LIMIT, allow_inf_nan=False)]
Moment = Annotated[AwareDatetime, BeforeValidator(_only_iso)]
Names = Annotated[list[str], Field(min_length=1, max_length=100)]


class NewKey(BaseModel):
    """What a key may do. Left out: no limit."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=NAME_LIMIT, description="What it is for.")
    workspace: str = Field(default="default", description="Where its work counts; * lets requests choose.")
    models: Names | None = Field(default=None, description="Only these models.")
    rpm: Count | None = Field(default=None, description="Requests a minute.")
    tpm: Count | None = Field(default=None, description="Tokens a minute.")
    budget: Budget | None = Field(
        default=None, description="What it may spend in all, in the plan's currency."
    )
    expires_at: Moment | None = Field(default=None, description="From then on it is refused.")


def _absent() -> Any:
    """No value of its own: what is left out of a change stays as it is."""
    return None


class KeyChange(BaseModel):
    """What changes of a key. Left out: it stays as it is; null: no limit, no expiry, every model."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default_factory=_absent, max_length=NAME_LIMIT, description="What it is for.")
    models: Names | None = Field(default_factory=_absent, description="Only these models.")
    rpm: Count | None = Field(default_factory=_absent, description="Requests a minute.")
    tpm: Count | None = Field(default_factory=_absent, description="Tokens a minute.")
    budget: Budget | None = Field(
        default_factory=_absent, description="What it may spend in all, in the plan's currency."
    )
    expires_at: Moment | None = Field(default_factory=_absent, description="From then on it is refused.")
    paused: Annotated[bool, Field(strict=True)] = Field(
        default_factory=_absent, description="While true, the key is refused."
    )


class Rotation(BaseModel):
    """How a secret is replaced."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: Annotated[float, Field(strict=True, ge=0, le=MAX_GRACE, allow_inf_nan=False)] = Field(
        default=0, description="How long the old secret still works."
    )


class Key(BaseModel):
    """A key as it may be shown: never its secret, never its digest."""

    id: str
    name: str
    workspace: str
    prefix: str
    state: str = Field(description="active, paused, expired or revoked")
    models: list[str] | None
    rpm: int | None
    tpm: int | None
    budget: float | None
    spent: float = Field(description="On every server, at list price, in the plan's currency.")
    created_at: datetime
    expires_at: datetime | None
    paused_at: datetime | None
    revoked_at: datetime | None


class KeyWithSecret(Key):
    """The reply that shows the secret, this once."""

    secret: str


class KeyList(BaseModel):
    data: list[Key]


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


async def _show(accounts: Accounts, record: KeyRecord | str) -> dict[str, Any]:
    return await accounts.database.run(describe_one, accounts.database, accounts.plan, record)


async def list_keys(request: Request) -> Response:
    """Every key, revoked ones included."""
    authorize(request)
    accounts = service_of(request).accounts

    def render() -> Response:
        return reply({"data": describe_all(accounts.database, accounts.plan)})

    return await accounts.database.run(render)


async def create_key(request: Request) -> Response:
    """Make a key; the reply shows its secret this once."""
    authorize(request)
    accounts = service_of(request).accounts
    asked = await read_body(request, NewKey)
    record, secret = await accounts.database.run(
        accounts.create_key,
        asked.name,
        asked.workspace,
        models=asked.models,
        rpm=asked.rpm,
        tpm=asked.tpm,
        budget=asked.budget,
        expires_at=_seconds(asked.expires_at),
    )
    return reply(await _show(accounts, record) | {"secret": secret}, 201, UNSTORED)


async def get_key(request: Request) -> Response:
    """One key."""
    authorize(request)
    return reply(await _show(service_of(request).accounts, request.path_params["id"]))


async def change_key(request: Request) -> Response:
    """Change what a key may do, or pause it: here at once, on every other node within a second."""
    authorize(request)
    accounts = service_of(request).accounts
    asked = await read_body(request, KeyChange)
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    if "expires_at" in given:
        given["expires_at"] = _seconds(asked.expires_at)
    changes = KeyChanges(**given)  # type: ignore[typeddict-item]
    record = await accounts.database.run(accounts.update_key, request.path_params["id"], changes)
    return reply(await _show(accounts, record))


async def revoke_key(request: Request) -> Response:
    """End a key for good: here at once, on every other node within a second."""
    authorize(request)
    accounts = service_of(request).accounts
    record = await accounts.database.run(accounts.revoke_key, request.path_params["id"])
    return reply(await _show(accounts, record))


async def rotate_key(request: Request) -> Response:
    """Give a key a new secret; the reply shows it this once."""
    authorize(request)
    accounts = service_of(request).accounts
    asked = await read_body(request, Rotation)
    record, secret = await accounts.database.run(
        accounts.rotate_key, request.path_params["id"], asked.grace_seconds
    )
    return reply(await _show(accounts, record) | {"secret": secret}, headers=UNSTORED)
