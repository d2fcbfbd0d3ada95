"""Links that open one result for a while, to whoever holds them, and stop working."""

from __future__ import annotations

import hmac
import os
import secrets
import time
from hashlib import sha256
from pathlib import Path

SECRET_FILE = "link-secret"


class LinkSigner:
    """Signs (name, expiry) with a secret that lies beside the files, so all nodes of a fleet agree."""

    def __init__(self, folder: Path) -> None:
        self._secret = _read_or_make(folder / SECRET_FILE)

    def sign(self, name: str, expires: int) -> str:
        """Signature of a link to ``name`` that is good until ``expires`` (Unix seconds)."""
        return hmac.new(self._secret, f"{expires}\n{name}".encode(), sha256).hexdigest()

    def opens(self, name: str, expires: str, signature: str) -> bool:
        """Whether such a link is ours and still good."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return False
        expected = self.sign(name, int(expires))
        genuine = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))
        return genuine and time.time() < int(expires)


def _read_or_make(path: Path) -> bytes:
    """The secret; whoever comes first makes it, complete before it is visible."""
    if not path.exists():
        draft = path.with_name(f".{SECRET_FILE}-{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
