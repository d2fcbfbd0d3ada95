"""API keys: made, shown once, and from then on known only by their digest."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import foreign_workspace, malformed_workspace, missing_key, wrong_key
from embedserve.errors import EmbedserveError
from embedserve.storage.database import Database
from embedserve.storage.tables import api_keys, stamps

ANY_WORKSPACE = "*"
"""The workspace of a key that may name any; without a name its work counts under ``default``."""

WORKSPACE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


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
    """A key as it is stored. Times are seconds since 1970."""

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

    def state(self, now: float | None = None) -> str:
        """``active``, ``expired`` or ``revoked``"""
        if self.revoked_at is not None:
            return "revoked"
        expired = self.expires_at is not None and self.expires_at <= (time.time() if now is None else now)
        return "expired" if expired else "active"


def _record(row: Mapping[str, Any]) -> KeyRecord:
    models = None if row["models"] is None else frozenset(json.loads(row["models"]))
    return KeyRecord(**{**row, "models": models})


class KeyStore:
    """Keys in the database. Every method blocks; every change tells the other nodes through a stamp."""

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
        check_key(name, workspace, rpm, tpm, budget, expires_at)
        chosen = None if models is None else sorted(set(models))
        if chosen is not None and not chosen:
            raise _refuse("models is empty: name at least one, or leave it out for all.")
        shown = secret if secret is not None else make_secret()
        key_id = f"key_{secrets.token_hex(8)}"
        values = {
            "id": key_id,
            "name": name,
            "workspace": workspace,
            "digest": hash_secret(shown),
            "prefix": prefix_of(shown),
            "models": None if chosen is None else json.dumps(chosen),
            "rpm": rpm,
            "tpm": tpm,
            "budget": budget,
            "created_at": time.time(),
            "expires_at": expires_at,
        }
        with self.database.write() as connection:
            connection.execute(sa.insert(api_keys).values(values))
            self._bump(connection)
        return self.get(key_id), shown

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
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
            return [_record(dict(row)) for row in rows.mappings()]

    def get(self, key_id: str) -> KeyRecord:
        """Raises EmbedserveError (404) for an unknown id."""
        found = self._find(api_keys.c.id == key_id)
        if found is None:
            raise EmbedserveError(
                f"There is no key {key_id}; `embedserve keys list` shows them.", status=404, code="NotFound"
            )
        return found

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key for good, on every node within a second. Again is no error."""
        if self.get(key_id).revoked_at is None:
            self._change(key_id, revoked_at=time.time())
        return self.get(key_id)

    def rotate(self, key_id: str, grace: float = 0.0) -> tuple[KeyRecord, str]:
        """A new secret for the same key; the old one works for ``grace`` more seconds."""
        record = self.get(key_id)
        if record.state() != "active":
            raise _refuse(f"Key {key_id} is {record.state()}: create a new one instead.")
        if not 0 <= grace <= 30 * 86400:
            raise _refuse(f"grace is {grace:g} s: it lies between 0 and 30 days.")
        secret = make_secret()
        self._change(
            key_id,
            digest=hash_secret(secret),
            prefix=prefix_of(secret),
            old_digest=record.digest if grace else None,
            old_until=time.time() + grace if grace else None,
        )
        return self.get(key_id), secret

    def version(self) -> int:
        """Grows with every change of any key, on whichever node."""
        with self.database.read() as connection:
            value = connection.execute(sa.select(stamps.c.value).where(stamps.c.name == "keys")).scalar()
            return int(value or 0)

    def _find(self, condition: sa.ColumnElement[bool]) -> KeyRecord | None:
        with self.database.read() as connection:
            row = connection.execute(sa.select(api_keys).where(condition)).mappings().first()
            return None if row is None else _record(dict(row))

    def _change(self, key_id: str, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(**values))
            self._bump(connection)

    def _bump(self, connection: sa.Connection) -> None:
        statement = self.database.upsert(stamps).values(name="keys", value=1)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": stamps.c.value + 1})
        )


class KeyView:
    """The keys in memory: what a request is checked against without touching the database.

    Replaced as a whole, so that readers need no lock.
    """

    def __init__(self) -> None:
        self._by_digest: dict[str, tuple[str, KeyRecord, float | None]] = {}
        self._by_id: dict[str, KeyRecord] = {}
        self.budgeted: frozenset[str] = frozenset()
        self.version = -1

    def replace(self, records: Iterable[KeyRecord], version: int) -> None:
        usable = [record for record in records if record.revoked_at is None]
        known: dict[str, tuple[str, KeyRecord, float | None]] = {}
        for record in usable:
            known[record.digest] = (record.digest, record, record.expires_at)
            if record.old_digest and record.old_until is not None:
                ends = [record.old_until, *([record.expires_at] if record.expires_at is not None else [])]
                known[record.old_digest] = (record.old_digest, record, min(ends))
        self._by_digest, self.version = known, version
        self._by_id = {record.id: record for record in usable}
        self.budgeted = frozenset(record.id for record in usable if record.budget is not None)

    def authenticate(self, secret: str | None, workspace: str | None) -> Caller:
        """Raises EmbedserveError: 401 for the key, 401 or 404 for the workspace."""
        if not secret:
            raise missing_key()
        digest = hash_secret(secret)
        # How long finding a digest takes says nothing of the secret; the comparison is constant in time.
        stored, record, until = self._by_digest.get(digest) or ("", None, None)
        if not hmac.compare_digest(stored, digest) or record is None:
            raise wrong_key()
        if until is not None and until <= time.time():
            raise wrong_key()
        return _caller(record, _choose_workspace(record.workspace, workspace))

    def find(self, key_id: str, workspace: str) -> Caller | None:
        """The caller behind a key that is active, by its id; for work that it put in earlier."""
        record = self._by_id.get(key_id)
        return _caller(record, workspace) if record is not None and record.state() == "active" else None


def _caller(record: KeyRecord, workspace: str) -> Caller:
    return Caller(record.id, record.name, workspace, record.models, record.rpm, record.tpm, record.budget)


def _choose_workspace(own: str, asked: str | None) -> str:
    if not asked:
        return "default" if own == ANY_WORKSPACE else own
    if not WORKSPACE_PATTERN.fullmatch(asked):
        raise malformed_workspace()
    if own not in (ANY_WORKSPACE, asked):
        raise foreign_workspace()
    return asked


def check_key(
    name: str,
    workspace: str,
    rpm: int | None,
    tpm: int | None,
    budget: float | None,
    expires_at: float | None,
) -> None:
    if len(name) > 200:
        raise _refuse(f"The name has {len(name)} characters; 200 are the most.")
    if workspace != ANY_WORKSPACE and not WORKSPACE_PATTERN.fullmatch(workspace):
        raise _refuse(f"{workspace!r} is no workspace: use up to 64 letters, digits, - and _.")
    for label, value in (("rpm", rpm), ("tpm", tpm)):
        if value is not None and not 1 <= value < 2**31:
            raise _refuse(f"{label} is {value}: it is at least 1; leave it out for no limit.")
    if budget is not None and not 0 <= budget < 1e15:
        raise _refuse(f"budget is {budget:g}: it is at least 0; leave it out for no limit.")
    if expires_at is not None and expires_at <= time.time():
        raise _refuse("The expiry lies in the past.")


def _refuse(message: str) -> EmbedserveError:
    return EmbedserveError(message, openai_type="invalid_request_error")
