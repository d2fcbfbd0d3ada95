"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request, as it was when the request arrived.

    Attributes:
        key_id: a name for logs and ledgers, never the secret.
        workspace: where the work is counted.
        models: the models it may ask for; None for all.
        rpm, tpm: its own limits a minute; None for the server's default.
        budget: what it may spend in all, in the plan's currency; None for no end.
    """

    key_id: str
    name: str
    workspace: str = "default"
    models: frozenset[str] | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget: float | None = None
