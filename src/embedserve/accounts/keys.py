"""API keys: made, shown once, and from then on known only by their digest."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import sqlalchemy as sa

from embedserve.accounts.bounds import (
    ANY_WORKSPACE,
    LAST_MOMENT,
    check_budget,
    check_count,
    check_expiry,
    check_models,
    check_name,
    check_workspace,
    is_key_id,
    read_figure,
    refuse,
    show,
)
from embedserve.errors import EmbedserveError
from embedserve.storage.database import Database
from embedserve.storage.tables import api_keys, stamps

MAX_GRACE = 30 * 86400
"""Seconds for which a replaced secret may go on."""


def hash_secret(secret: str) -> str:
    """SHA-256, hexadecimal. Enough for secrets of 256 random bits; slow hashes are for guessable ones."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def make_secret() -> str:
    return "sk-" + secrets.token_urlsafe(32)


def prefix_of(secret: str) -> str:
    """What may be shown of a secret to tell keys apart; nothing of one that is short."""
    return f"{secret[:7]}…" if len(secret) >= 32 else "…"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is stored. Times are seconds since 1970.

    Attributes:
        changed: grows with every change of any key; which is the later of two records of one key.
    """

    id: str
    name: str
    workspace: str
    prefix: str
    digest: str
    old_digest: str | None
    old_until: float | None
    models: frozenset[str] | None
    rpm: int | None
    tpm: int | None
    budget: float | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    paused_at: float | None
    changed: int

    def state(self, now: float | None = None) -> str:
        """``active``, ``paused``, ``expired`` or ``revoked``"""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= (time.time() if now is None else now):
            return "expired"
        return "active" if self.paused_at is None else "paused"


class KeyChanges(TypedDict, total=False):
    """What may be changed of a key. Absent: stays as it is; None: no limit, no expiry, every model."""

    name: str
    models: Iterable[str] | None
    rpm: int | None
    tpm: int | None
    budget: float | None
    expires_at: float | None
    paused: bool


def _record(row: Mapping[str, Any]) -> KeyRecord:
    figures = {
        "models": None if row["models"] is None else frozenset(json.loads(row["models"])),
        "budget": read_figure(row["budget"]),
        "created_at": read_figure(row["created_at"], LAST_MOMENT) or 0.0,
        **{
            name: read_figure(row[name], LAST_MOMENT)
            for name in ("old_until", "expires_at", "revoked_at", "paused_at")
        },
    }
    return KeyRecord(**{**row, **figures})


class KeyStore:
    """Keys in the database. Every method blocks; every change tells the other nodes through a stamp.

    A change takes the stamp first and holds it until it is committed, on every database: stamps grow in the
    order of the commits, and whoever has seen one has seen every change before it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self,
        name: str = "",
        workspace: str = "default",
        *,
        models: Iterable[str] | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        budget: float | None = None,
        expires_at: float | None = None,
        secret: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is not kept.

        Args:
            workspace: where its work counts; ``*`` lets each request name one.
            models: an allow-list, None for every model.
            budget: in the plan's currency.
            expires_at: seconds since 1970.
            secret: adopt this one instead of making one.

        Raises:
            EmbedserveError: a value that cannot be.
        """
        shown = secret if secret is not None else make_secret()
        values = _columns(
            {
                "name": name,
                "models": models,
                "rpm": rpm,
                "tpm": tpm,
                "budget": budget,
                "expires_at": expires_at,
            }
        ) | {
            "id": f"key_{secrets.token_hex(8)}",
            "workspace": check_workspace(workspace),
            "digest": hash_secret(shown),
            "prefix": prefix_of(shown),
            "created_at": time.time(),
        }
        with self.database.write() as connection:
            changed = self._take_stamp(connection)
            row = connection.execute(
                sa.insert(api_keys).values(**values, changed=changed).returning(*api_keys.c)
            )
            return _record(dict(row.mappings().one())), shown

    def adopt(self, secret: str, name: str = "environment") -> KeyRecord:
        """The key with this secret, made if there is none. One that was revoked stays revoked."""
        digest = hash_secret(secret)
        found = self._find(api_keys.c.digest == digest)
        if found is not None:
            return found
        try:
            return self.create(name, ANY_WORKSPACE, secret=secret)[0]
        except sa.exc.IntegrityError:  # another node starts with the same key
            found = self._find(api_keys.c.digest == digest)
            if found is None:
                raise
            return found

    def list(self) -> list[KeyRecord]:
        """Every key, oldest first, revoked ones included."""
        with self.database.read() as connection:
            return read_keys(connection)

    def get(self, key_id: str) -> KeyRecord:
        """Raises EmbedserveError (404) for an unknown id."""
        found = self._find(api_keys.c.id == key_id) if is_key_id(key_id) else None
        if found is None:
            raise no_such_key(key_id)
        return found

    def update(self, key_id: str, changes: KeyChanges) -> KeyRecord:
        """Change what a key may do, on every node within a second.

        Raises:
            EmbedserveError: 404 for an unknown id; 400 for a value that cannot be, or a key that was revoked.
        """
        values = _columns(changes)
        with self._changing(key_id) as (connection, record, changed):
            if record.revoked_at is not None:
                raise refuse(f"Key {key_id} was revoked, and that is for good: create a new one instead.")
            if "paused" in changes:
                paused = changes["paused"]
                values["paused_at"] = (record.paused_at or time.time()) if paused else None
            return self._write(connection, key_id, changed, values)

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key for good, on every node within a second. Again is no error."""
        with self._changing(key_id) as (connection, record, changed):
            if record.revoked_at is not None:
                return record
            return self._write(connection, key_id, changed, {"revoked_at": time.time()})

    def rotate(self, key_id: str, grace: float = 0.0) -> tuple[KeyRecord, str]:
        """A new secret for the same key; the old one works for ``grace`` more seconds."""
        if not 0 <= grace <= MAX_GRACE:
            raise refuse(f"grace is {show(grace)} s: it lies between 0 and 30 days.")
        secret = make_secret()
        with self._changing(key_id) as (connection, record, changed):
            if (state := record.state()) not in ("active", "paused"):
                raise refuse(f"Key {key_id} is {state}: create a new one instead.")
            values = {
                "digest": hash_secret(secret),
                "prefix": prefix_of(secret),
                "old_digest": record.digest if grace else None,
                "old_until": time.time() + grace if grace else None,
            }
            return self._write(connection, key_id, changed, values), secret

    def version(self) -> int:
        """Grows with every change of any key, on whichever node."""
        with self.database.read() as connection:
            return read_stamp(connection)

    def _find(self, condition: sa.ColumnElement[bool]) -> KeyRecord | None:
        with self.database.read() as connection:
            return _read_one(connection, condition)

    @contextmanager
    def _changing(self, key_id: str) -> Iterator[tuple[sa.Connection, KeyRecord, int]]:
        """A write transaction, the key as it is inside it, and the stamp of the change."""
        if not is_key_id(key_id):
            raise no_such_key(key_id)
        with self.database.write() as connection:
            changed = self._take_stamp(connection)
            record = _read_one(connection, api_keys.c.id == key_id)
            if record is None:
                raise no_such_key(key_id)
            yield connection, record, changed

    def _write(
        self, connection: sa.Connection, key_id: str, changed: int, values: Mapping[str, Any]
    ) -> KeyRecord:
        statement = sa.update(api_keys).where(api_keys.c.id == key_id).values(**values, changed=changed)
        row = connection.execute(statement.returning(*api_keys.c)).mappings().one()
        return _record(dict(row))

    def _take_stamp(self, connection: sa.Connection) -> int:
        statement = self.database.upsert(stamps).values(name="keys", value=1)
        statement = statement.on_conflict_do_update(
            index_elements=["name"], set_={"value": stamps.c.value + 1}
        )
        return int(connection.execute(statement.returning(stamps.c.value)).scalar_one())


def read_stamp(connection: sa.Connection) -> int:
    value = connection.execute(sa.select(stamps.c.value).where(stamps.c.name == "keys")).scalar()
    return int(value or 0)


def read_keys(connection: sa.Connection, after: int = -1) -> list[KeyRecord]:
    """Keys that changed after a stamp, oldest first."""
    query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
    if after >= 0:
        query = query.where(api_keys.c.changed > after)
    return [_record(dict(row)) for row in connection.execute(query).mappings()]


def no_such_key(key_id: str) -> EmbedserveError:
    shown = key_id if is_key_id(key_id) else show(key_id)
    return EmbedserveError(
        f"There is no key {shown}; `embedserve keys list` shows them.", status=404, code="NotFound"
    )


def _read_one(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> KeyRecord | None:
    row = connection.execute(sa.select(api_keys).where(condition)).mappings().first()
    return None if row is None else _record(dict(row))


def _columns(changes: KeyChanges) -> dict[str, Any]:
    """Checked, and as the columns hold them; ``paused`` is the caller's."""
    values: dict[str, Any] = {}
    if "name" in changes:
        values["name"] = check_name(changes["name"])
    if "models" in changes:
        chosen = check_models(changes["models"])
        values["models"] = None if chosen is None else json.dumps(chosen)
    if "rpm" in changes:
        values["rpm"] = check_count("rpm", changes["rpm"])
    if "tpm" in changes:
        values["tpm"] = check_count("tpm", changes["tpm"])
    if "budget" in changes:
        values["budget"] = check_budget(changes["budget"])
    if "expires_at" in changes:
        values["expires_at"] = check_expiry(changes["expires_at"])
    return values
