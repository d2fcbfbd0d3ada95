"""What is known about a request, for its line in the access log: filled in on its way, told at its end."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

_NOTE = "embedserve.note"


@dataclass(slots=True)
class Note:
    """No text and no secret: ids, names that are sold here, and counts."""

    key: str | None = None
    model: str | None = None
    rows: int | None = None
    tokens: int | None = None

    def ask(self, model: str, rows: int) -> None:
        """What was asked for; the model is one that is sold here."""
        self.model, self.rows = model, rows


def note_of(scope: Scope) -> Note:
    note: Note = scope.setdefault(_NOTE, Note())
    return note
