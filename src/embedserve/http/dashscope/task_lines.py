"""The lines of an asynchronous task: one text each (protocol notes 7b).

A result line is ``{"output":{"code":200,"embedding":[…],"text_index":0},"usage":{"total_tokens":3}}``, or
``{"output":{"code":400,"message":"…","text_index":1}}`` for a text that was refused. The original's keys are
not documented; these are ours (docs/batch.md). ``text_index`` is the number of the line, blank ones counted.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from typing import Any

import orjson

from embedserve.accounts.caller import Caller
from embedserve.errors import EmbedserveError, internal
from embedserve.http.fields import BEIJING
from embedserve.jobs.dialect import Answer
from embedserve.jobs.errors import outlives_the_line
from embedserve.jobs.records import Job, Problem, Status
from embedserve.jobs.tries import tell
from embedserve.service import EmbeddingService, EmbedReply, EmbedRequest

log = logging.getLogger("embedserve.jobs")

_WORDS = {
    "empty": ("InvalidFile.Empty", "The file has no text: it should have one text a line."),
    "too_many_lines": ("InvalidFile.TooManyLines", "The file has more than {limit} lines: split it."),
    "line_too_long": ("InvalidFile.LineTooLong", "Line {line} is longer than {limit} bytes."),
    "too_large": ("BadRequest.TooLarge", "The file is larger than {limit} bytes: split it."),
    "missing": ("InvalidFile.NotFound", "The file is no longer there."),
    "storage_full": ("InternalError.StorageFull", "{message}"),
    "given_up": (
        "InternalError",
        "The task was given up after {tries} tries, all of which met an internal error. Lines that were done "
        "are in the result.",
    ),
}
_STATUS: dict[Status, str] = {
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "FAILED",
    "cancelled": "CANCELED",
}


def read_text(number: int, line: bytes) -> str:
    """The text of line ``number`` (from 0), empty for a blank one. Raises UnicodeDecodeError."""
    text = line.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n")
    return "" if text.isspace() else text


class TaskChecker:
    def __init__(self, job: Job) -> None:
        self.model = job.model

    def check(self, number: int, line: bytes) -> int | Problem:
        try:
            return 1 if read_text(number, line) else 0
        except UnicodeDecodeError:
            return Problem("InvalidFile.NotUtf8", f"Line {number + 1} is not UTF-8: convert the file first.")


class TaskLines:
    """Implements :class:`embedserve.jobs.dialect.Dialect`."""

    max_lines = 100_000
    max_line_bytes = 6 * 2**20
    max_file_bytes = 200 * 2**20
    compress = True
    split = False

    def open_checker(self, job: Job) -> TaskChecker:
        return TaskChecker(job)

    def problem(self, what: str, **values: Any) -> Problem:
        code, words = _WORDS[what]
        return Problem(code, words.format(**values))

    def refusal(self, error: EmbedserveError) -> Problem:
        return Problem(error.code, error.message)

    def is_blank(self, number: int, line: bytes) -> bool:
        return not read_text(number, line)

    def read(self, job: Job, number: int, line: bytes, *, lenient: bool) -> str:
        return read_text(number, line)

    async def answer(
        self, service: EmbeddingService, caller: Caller, job: Job, number: int, asked: str
    ) -> Answer:
        id = job.line_id(number)
        request = EmbedRequest(job.model, [asked], text_type=job.settings.get("text_type"), lane="bulk")
        try:
            answer, reservation = await service.compute(caller, request, id)
        except EmbedserveError as error:
            if outlives_the_line(error):
                raise
            return Answer(False, partial(failure_line, number, error))
        except Exception as error:  # one line must not hold up the others, nor the job for ever
            log.error("line %d of %s failed: %s", number + 1, job.id, tell(error))
            return Answer(False, partial(failure_line, number, internal()))
        return Answer(True, partial(success_line, number, answer), id, answer.tokens, reservation)

    def decline(self, job: Job, number: int, line: bytes) -> Answer:
        error = EmbedserveError("The task ended before this line was run.", code="RequestTimeOut")
        return Answer(False, partial(failure_line, number, error))

    def describe(self, job: Job) -> dict[str, Any]:
        return {"task_id": job.id, "task_status": task_status(job)}


def dump_line(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def success_line(number: int, answer: EmbedReply) -> bytes:
    row = answer.rows[0]
    assert not isinstance(row, EmbedserveError)
    output = {"code": 200, "embedding": row.dense, "text_index": number}
    return dump_line({"output": output, "usage": {"total_tokens": answer.tokens}})


def failure_line(number: int, error: EmbedserveError) -> bytes:
    output = {"code": error.status, "message": error.message, "text_index": number}
    return dump_line({"output": output})


def task_status(job: Job) -> str:
    """In the native API's words: a job is PENDING until a worker takes it."""
    if job.status == "validating":
        return "PENDING" if job.started_at is None else "RUNNING"
    return _STATUS[job.status]


def clock(moment: float | None) -> str:
    """``2024-11-25 13:55:46.536``, Beijing time as in the original."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment, BEIJING).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
