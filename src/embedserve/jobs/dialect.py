"""What a wire dialect has to say about a job: which lines it accepts, how one is answered, how it is told.

The dialects live beside their endpoints (``http/openai/batch_lines.py``, ``http/dashscope/task_lines.py``);
the runner knows only this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from embedserve.accounts.accounts import Reservation
from embedserve.accounts.caller import Caller
from embedserve.errors import EmbedserveError
from embedserve.jobs.records import Job, Problem
from embedserve.service import EmbeddingService


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered line.

    Attributes:
        ok: the line succeeded: it is billed, and goes to the output.
        render: the bytes of the result line, with the line end; called in a thread.
        request_id: under which it is billed.
        reservation: to release once it is.
    """

    ok: bool
    render: Callable[[], bytes]
    request_id: str = ""
    tokens: int = 0
    reservation: Reservation | None = None


class Checker(Protocol):
    """Looks at the lines of one input file, one after the other."""

    model: str
    """Of the lines seen so far."""

    def check(self, number: int, line: bytes) -> int | Problem:
        """How many texts line ``number`` (from 0) has, 0 for one to skip, or why the job cannot run."""
        ...


class Dialect(Protocol):
    """How one kind of job is read and answered.

    Attributes:
        max_lines, max_line_bytes, max_file_bytes: limits of an input file.
        compress: the parts of the output are gzip members.
        split: failed lines go to an error file of their own.
    """

    max_lines: int
    max_line_bytes: int
    max_file_bytes: int
    compress: bool
    split: bool

    def open_checker(self, job: Job) -> Checker: ...

    def refusal(self, error: EmbedserveError) -> Problem:
        """An error that ends the job, in the dialect's words."""
        ...

    def problem(self, what: str, **values: Any) -> Problem:
        """A problem with the file as a whole: ``empty``, ``too_many_lines``, ``line_too_long``,
        ``too_large``, ``missing`` or ``storage_full``; or ``given_up``, after so many ``tries``."""
        ...

    def is_blank(self, number: int, line: bytes) -> bool:
        """Whether a line gives no result; the checker said 0 of it."""
        ...

    def read(self, job: Job, number: int, line: bytes, *, lenient: bool) -> Any:
        """A line that was checked, as :meth:`answer` takes it; called in a thread."""
        ...

    async def answer(
        self, service: EmbeddingService, caller: Caller, job: Job, number: int, asked: Any
    ) -> Answer:
        """Answer a line that was read; refusals become failed answers.

        Raises:
            EmbedserveError: what is not about this line (:func:`.errors.outlives_the_line`).
        """
        ...

    def decline(self, job: Job, number: int, line: bytes) -> Answer:
        """The answer to a line that was not run because the job was cancelled or expired; called in a
        thread."""
        ...

    def describe(self, job: Job) -> dict[str, Any]:
        """The job as callbacks are told of it."""
        ...
