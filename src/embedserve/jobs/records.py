"""Files, jobs and chunks as the code hands them around: rows of the store, read-only."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import orjson

Kind = Literal["batch", "task"]
Status = Literal[
    "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"
]
ENDED: tuple[Status, ...] = ("completed", "failed", "expired", "cancelled")
RUNNING: tuple[Status, ...] = ("in_progress", "finalizing", "cancelling")
"""Statuses in which chunks are worked on; in the last two each line is answered with why it was not run."""
_LINE_IDS = uuid.UUID("6f0b3a52-52c8-4d7e-9f0f-0b6f3b8a2c11")


class _Row:
    """Built from a row of the table with the same column names."""

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Self:
        return cls(**{f.name: row[f.name] for f in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class StoredFile(_Row):
    """An upload, or the output of a job (``job_id`` and ``suffix`` say whose and which)."""

    id: str
    workspace: str
    purpose: str
    filename: str
    bytes: int
    created_at: float
    expires_at: float | None = None
    job_id: str | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class Job(_Row):
    """A batch or an asynchronous task. Times are Unix seconds."""

    id: str
    kind: Kind
    workspace: str
    key_id: str
    request_id: str
    endpoint: str
    created_at: float
    deadline: float
    model: str = ""
    status: Status = "validating"
    input_file_id: str | None = None
    input_url: str | None = field(default=None, repr=False)
    options: str = "{}"
    metadata: str | None = None
    title: str = ""
    callback: str | None = None
    window: str = ""
    started_at: float | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None
    errors: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    attempts: int = 0
    input_bytes: int = 0
    fetched_at: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the dialect put aside at creation."""
        loaded: dict[str, Any] = orjson.loads(self.options)
        return loaded

    def line_id(self, number: int) -> str:
        """The request id of line ``number`` (from 0), the same on every run: it is billed only once."""
        return str(uuid.uuid5(_LINE_IDS, f"{self.id}/{number}"))


@dataclass(frozen=True, slots=True)
class Chunk(_Row):
    """Consecutive lines of the input: ``length`` bytes from ``start``."""

    number: int
    first_line: int
    lines: int
    start: int
    length: int
    attempts: int = 0


MAX_MESSAGE = 2000
"""Characters of a problem's message that are kept."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job cannot run: one entry of the error list. ``line`` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is stored; whatever the texts are, any database and any JSON writer takes them."""
        param = None if self.param is None else _clean(self.param)
        return {"code": _clean(self.code), "message": _clean(self.message), "param": param, "line": self.line}


def _clean(text: str) -> str:
    text = text[:MAX_MESSAGE].replace("\0", "\ufffd")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
