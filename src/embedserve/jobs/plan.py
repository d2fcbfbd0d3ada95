"""Checking an input file and cutting it into chunks, in memory that does not depend on its size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embedserve.jobs.dialect import Dialect
from embedserve.jobs.errors import GivenUpError
from embedserve.jobs.records import Chunk, Job, Problem

CHUNK_LINES = 64
CHUNK_TEXTS = 256
CHUNK_BYTES = 512 * 1024
"""A chunk ends before it would exceed one of these, unless a single line does."""
MAX_PROBLEMS = 20
"""After so many the rest of a file is not looked at."""
_YIELD_LINES, _YIELD_BYTES = 256, 256 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks of a file, or why there are none."""

    model: str
    chunks: list[Chunk]
    problems: list[Problem]


def make_plan(path: Path, job: Job, dialect: Dialect, keep_going: Callable[[], bool] = lambda: True) -> Plan:
    """Read the file once, line by line. Raises GivenUpError once ``keep_going`` says no."""
    checker = dialect.open_checker(job)
    chunks: list[Chunk] = []
    problems: list[Problem] = []
    draft = _Draft()
    total = 0
    rested_at = 0
    for number, start, line in _read_lines(path, dialect.max_line_bytes):
        if number % _YIELD_LINES == 0 or start - rested_at > _YIELD_BYTES:
            rested_at = start
            time.sleep(0.001)  # somebody may be waiting for this core
            if not keep_going():
                raise GivenUpError
        if len(line) > dialect.max_line_bytes:
            problems.append(dialect.problem("line_too_long", line=number + 1, limit=dialect.max_line_bytes))
            break
        found = checker.check(number, line)
        if isinstance(found, Problem):
            problems.append(found)
            if len(problems) == MAX_PROBLEMS:
                break
            continue
        if not found:
            continue
        total += 1
        if total > dialect.max_lines:
            problems.append(dialect.problem("too_many_lines", limit=dialect.max_lines))
            break
        if draft.is_full(found, len(line)):
            chunks.append(draft.chunk(len(chunks)))
            draft = _Draft()
        draft.add(number, start, found, len(line))
    if draft.lines:
        chunks.append(draft.chunk(len(chunks)))
    if not total and not problems:
        problems.append(dialect.problem("empty"))
    return Plan(checker.model, [] if problems else chunks, problems)


class _Draft:
    """A chunk in the making. Skipped lines in the middle belong to it and are skipped again when it runs."""

    def __init__(self) -> None:
        self.first_line = self.start = self.end = self.lines = self.texts = 0

    def is_full(self, texts: int, size: int) -> bool:
        return self.lines > 0 and (
            self.lines == CHUNK_LINES
            or self.texts + texts > CHUNK_TEXTS
            or self.end - self.start + size > CHUNK_BYTES
        )

    def add(self, number: int, start: int, texts: int, size: int) -> None:
        if not self.lines:
            self.first_line, self.start = number, start
        self.lines += 1
        self.texts += texts
        self.end = start + size

    def chunk(self, number: int) -> Chunk:
        return Chunk(number, self.first_line, self.lines, self.start, self.end - self.start)


def _read_lines(path: Path, limit: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, line with its end); a line over the limit comes cut, longer than the limit."""
    with path.open("rb") as file:
        number = start = 0
        while line := file.readline(limit + 1):
            yield number, start, line
            number, start = number + 1, start + len(line)


def read_chunk(path: Path, chunk: Chunk) -> list[tuple[int, bytes]]:
    """(number, line without its end) of every line in a chunk, the skipped ones too."""
    with path.open("rb") as file:
        file.seek(chunk.start)
        raw = file.read(chunk.length)
    lines = raw.split(b"\n")
    if raw.endswith(b"\n"):
        lines.pop()
    return [(chunk.first_line + i, line) for i, line in enumerate(lines)]
