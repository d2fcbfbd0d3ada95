"""Keys of one server in a file of hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import missing_key, wrong_key
from embedserve.settings import Settings


@dataclass(frozen=True, slots=True)
class Reservation:
    caller: Caller
    model: str
    tokens: int


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Accounts:
    """Keys are stored as SHA-256 of 256-bit random secrets and compared in constant time."""

    def __init__(self, hashes: list[str], new_secret: str | None = None) -> None:
        self._hashes = hashes
        self.new_secret = new_secret
        """A key made just now; printed once, not kept."""

    @classmethod
    def open(cls, settings: Settings) -> Accounts:
        path: Path = settings.data_dir / "keys"
        path.parent.mkdir(parents=True, exist_ok=True)
        hashes = path.read_text().split() if path.exists() else []
        made = None
        if settings.api_key:
            given = hash_secret(settings.api_key.get_secret_value())
            hashes = hashes if given in hashes else [*hashes, given]
        elif not hashes:
            made = "sk-" + secrets.token_urlsafe(32)
            hashes = [hash_secret(made)]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(hashes) + "\n")
        return cls(hashes, made)

    def authenticate(self, secret: str | None, workspace: str | None = None) -> Caller:
        if not secret:
            raise missing_key()
        given = hash_secret(secret)
        matches = [known for known in self._hashes if hmac.compare_digest(known, given)]
        if not matches:
            raise wrong_key()
        return Caller(matches[0][:12], "default", workspace or "default")

    async def admit(self, caller: Caller, model: str, tokens: int) -> Reservation:
        return Reservation(caller, model, tokens)

    async def settle(
        self, reservation: Reservation, tokens: int, *, door: Literal["sync", "batch"] = "sync"
    ) -> None:
        """Count the work as done."""

    async def release(self, reservation: Reservation) -> None:
        """Give the reservation back: the request failed."""

    async def start(self) -> None:
        """Begin background work."""

    async def close(self) -> None:
        """End background work."""
