"""The keys in memory: what a request is checked against without touching the database."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Iterable

from embedserve.accounts.bounds import ANY_WORKSPACE, is_workspace
from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import foreign_workspace, malformed_workspace
from embedserve.accounts.keys import KeyRecord, hash_secret


class KeyView:
    """Keys by digest and by id. Changes replace the tables as a whole, so that readers need no lock."""

    def __init__(self) -> None:
        self._by_digest: dict[str, tuple[str, KeyRecord, float | None]] = {}
        self._by_id: dict[str, KeyRecord] = {}
        self._lock = threading.Lock()
        self.version = -1

    def merge(self, records: Iterable[KeyRecord], version: int) -> None:
        """Take in keys as they were when the stamp was ``version``; what is known to be later stays."""
        with self._lock:
            by_digest, by_id = self._by_digest.copy(), self._by_id.copy()
            for record in records:
                old = by_id.get(record.id)
                if old is not None and old.changed > record.changed:
                    continue
                for digest in (old.digest, old.old_digest) if old else ():
                    if digest:
                        by_digest.pop(digest, None)
                by_id[record.id] = record
                if record.revoked_at is not None or record.paused_at is not None:
                    continue
                by_digest[record.digest] = (record.digest, record, record.expires_at)
                if record.old_digest and record.old_until is not None:
                    ends = [record.old_until, *([] if record.expires_at is None else [record.expires_at])]
                    by_digest[record.old_digest] = (record.old_digest, record, min(ends))
            self._by_digest, self._by_id = by_digest, by_id
            self.version = max(self.version, version)

    def find_secret(self, secret: str) -> KeyRecord | None:
        """The key that this secret opens now; None for unknown, paused, expired and revoked."""
        digest = hash_secret(secret)
        # How long finding a digest takes says nothing of the secret; the comparison is constant in time.
        stored, record, until = self._by_digest.get(digest) or ("", None, None)
        if not hmac.compare_digest(stored, digest) or record is None:
            return None
        return None if until is not None and until <= time.time() else record

    def find(self, key_id: str, workspace: str) -> Caller | None:
        """The caller behind a key that is active, by its id; for work that it put in earlier."""
        record = self._by_id.get(key_id)
        return call_by(record, workspace) if record is not None and record.state() == "active" else None


def call_by(record: KeyRecord, workspace: str) -> Caller:
    return Caller(record.id, record.name, workspace, record.models, record.rpm, record.tpm, record.budget)


def choose_workspace(own: str, asked: str | None) -> str:
    """Where the work of a request counts. Raises EmbedserveError: 401 or 404."""
    if not asked:
        return "default" if own == ANY_WORKSPACE else own
    if not is_workspace(asked):
        raise malformed_workspace()
    if own not in (ANY_WORKSPACE, asked):
        raise foreign_workspace()
    return asked
