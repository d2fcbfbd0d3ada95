"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request. ``key_id`` is a name for logs and ledgers, never the secret."""

    key_id: str
    name: str
    workspace: str = "default"
