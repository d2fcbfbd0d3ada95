"""A row that cannot be taken, and a run that must end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedserve.errors import EmbedserveError


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not a text and cannot be made one.

    Attributes:
        index: its number among all rows of the run, from 0.
        file: as the caller named it.
        place: ``line 3`` or ``row 3``, counted from 1.
        reason: goes on from the place: "is not JSON: …".
        row: what was there, as far as it can be shown.
    """

    index: int
    file: str
    place: str
    reason: str
    row: Any = None

    def __str__(self) -> str:
        return f"{self.file}: {self.place} {self.reason}"


class Unreadable(EmbedserveError):
    """A file that cannot be read, or not further."""
