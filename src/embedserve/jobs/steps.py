"""The three steps of a job: its input is fetched, checked and cut into chunks; and each chunk is answered.

A step raises what stands in its way; what becomes of the job then is decided in :mod:`.runner`. Everything
that blocks (disk, database, downloads, large lines) runs in threads; the event loop only hands texts to the
service.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import ends_the_work, key_ended
from embedserve.errors import EmbedserveError
from embedserve.jobs.dialect import Answer, Dialect
from embedserve.jobs.download import download
from embedserve.jobs.ending import ERROR, OUTPUT
from embedserve.jobs.errors import GivenUpError, PostponedError
from embedserve.jobs.files import FileStore
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.plan import make_plan, read_chunk
from embedserve.jobs.queue import ChunkResult, JobQueue
from embedserve.jobs.records import Chunk, Job, Kind
from embedserve.jobs.tries import tell
from embedserve.service import EmbeddingService

log = logging.getLogger("embedserve.jobs")

P = ParamSpec("P")
T = TypeVar("T")

LINES_AT_A_TIME = 16
"""Lines that one chunk has at the service together."""
PATIENCE_SECONDS = 15.0
"""How long a chunk waits for room in the engine, since a line last got some, before it is given back."""


class Steps:
    """Of the jobs of one process.

    Args:
        threads: for what blocks.
        worker: the name under which work is leased.
        keep_going: false once the process is to end.
    """

    def __init__(
        self,
        service: EmbeddingService,
        queue: JobQueue,
        files: FileStore,
        dialects: Mapping[Kind, Dialect],
        guard: UrlGuard,
        threads: Executor,
        worker: str,
        keep_going: Callable[[], bool],
    ) -> None:
        self._service = service
        self._queue = queue
        self._files = files
        self._dialects = dialects
        self._guard = guard
        self._threads = threads
        self._worker = worker
        self._keep_going = keep_going

    async def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _caller_of(self, job: Job) -> Caller:
        """Whose work it is, as the key is now. Raises EmbedserveError (401) if it has ended."""
        find = self._service.accounts.find_caller
        if self._service.accounts.is_active(job.key_id):
            return find(job.key_id, job.workspace)
        return await self._thread(find, job.key_id, job.workspace)

    # the input

    async def fetch(self, job: Job) -> None:
        """Have the input on disk, and let it be checked."""
        await self._caller_of(job)
        size = await self._thread(self._fetch, job, self._dialects[job.kind])
        if not await self._thread(self._queue.end_fetch, job, self._worker, max(size, 1)):
            raise GivenUpError

    def _fetch(self, job: Job, dialect: Dialect) -> int:
        path = self._files.input_path(job)
        if path.exists():  # of an earlier try, whose worker died before it could say so
            self._files.hold_input(job, self._worker, size := path.stat().st_size)
            return size
        hold = partial(self._files.hold_input, job, self._worker)
        hold(1)
        draft = self._files.input_draft(job)
        try:
            size = download(
                job.input_url or "",
                draft,
                self._guard,
                limit=dialect.max_file_bytes,
                keep_going=self._keep_going,
                hold=hold,
            )
            draft.rename(path)
        except FileNotFoundError:  # removed by who has the job now, or because it has ended
            raise GivenUpError from None
        finally:
            draft.unlink(missing_ok=True)
        return size

    async def check(self, job: Job) -> None:
        """Check the input and cut it into chunks, or fail the job with what is wrong with it."""
        await self._caller_of(job)
        dialect = self._dialects[job.kind]
        path = self._files.input_path(job)
        plan = await self._thread(make_plan, path, job, dialect, self._keep_going)
        if plan.problems:
            await self._thread(self._queue.fail, job, plan.problems)
        else:
            await self._thread(self._queue.begin, job, self._worker, plan.model, plan.chunks)

    # one chunk

    async def run(self, job: Job, chunk: Chunk) -> None:
        """Answer the lines of a chunk, write them and book them."""
        dialect = self._dialects[job.kind]
        answers: Sequence[Answer] = []
        end: EmbedserveError | None = None
        try:
            if job.status == "in_progress":
                read = partial(dialect.read, lenient=self._service.lenient)
                lines = await self._thread(self._read, job, chunk, read)
                caller = await self._caller_of(job)
                answers, end = await self._answer_all(dialect, caller, job, lines)
            else:
                answers = [
                    answer for _, answer in await self._thread(self._read, job, chunk, dialect.decline)
                ]
            await self._book(job, chunk, dialect, answers, end)
        finally:
            await self._release(answers)

    def _read(self, job: Job, chunk: Chunk, read: Callable[[Job, int, bytes], T]) -> list[tuple[int, T]]:
        """(number, what is made of it) of each line of a chunk that is not blank."""
        lines = read_chunk(self._files.input_path(job), chunk)
        is_blank = self._dialects[job.kind].is_blank
        return [(number, read(job, number, line)) for number, line in lines if not is_blank(number, line)]

    async def _release(self, answers: Iterable[Answer | BaseException | None]) -> None:
        """Let go of what was set aside for lines; one that fails keeps no other."""
        for answer in answers:
            if isinstance(answer, Answer) and answer.reservation is not None:
                try:
                    await self._service.accounts.release(answer.reservation)
                except Exception as error:
                    log.error("a reservation was not released: %s", tell(error))

    async def _book(
        self,
        job: Job,
        chunk: Chunk,
        dialect: Dialect,
        answers: Sequence[Answer],
        end: EmbedserveError | None,
    ) -> None:
        sizes = await self._thread(self._write, job, chunk, dialect, answers)
        good = [answer for answer in answers if answer.ok]
        result = ChunkResult(
            completed=len(good),
            failed=len(answers) - len(good),
            output_bytes=sizes[0],
            error_bytes=sizes[1],
            usage=[(answer.request_id, answer.tokens) for answer in good if answer.tokens],
            problem=dialect.refusal(end) if end else None,
        )
        if not await self._thread(self._finish, job, chunk, result):
            log.warning("job %s: chunk %d was taken over, or the job ended: not booked", job.id, chunk.number)

    def _finish(self, job: Job, chunk: Chunk, result: ChunkResult) -> bool:
        """Book a chunk and tell the accounts of it; false if another worker has taken it over."""
        accounts = self._service.accounts
        with accounts.spending.step:
            booking = self._queue.finish_chunk(job, chunk, self._worker, result)
            if booking is not None:
                accounts.count(booking)
        return booking is not None

    def _write(self, job: Job, chunk: Chunk, dialect: Dialect, answers: Sequence[Answer]) -> tuple[int, int]:
        """Render the lines into the parts of the chunk; (bytes of output, bytes of errors)."""
        sizes = []
        for suffix, good in ((OUTPUT, True), (ERROR, False)):
            chosen = [a for a in answers if a.ok is good or (not dialect.split and suffix == OUTPUT)]
            if not chosen or (suffix == ERROR and not dialect.split):
                sizes.append(0)
                continue
            lines: Iterable[bytes] = (answer.render() for answer in chosen)
            if dialect.compress:
                lines = [gzip.compress(b"".join(lines), compresslevel=1, mtime=0)]
            sizes.append(self._files.write_part(job.id, chunk.number, suffix, lines))
        return sizes[0], sizes[1]

    async def _answer_all(
        self, dialect: Dialect, caller: Caller, job: Job, lines: Sequence[tuple[int, Any]]
    ) -> tuple[list[Answer], EmbedserveError | None]:
        """The answers, and why they are not all there: the key or its money came to an end."""
        room = asyncio.Semaphore(LINES_AT_A_TIME)
        patience = _Patience()
        ends: list[EmbedserveError] = []

        async def answer(number: int, asked: Any) -> Answer | None:
            async with room:
                if not ends:
                    try:
                        return await self._answer(dialect, caller, job, number, asked, patience)
                    except EmbedserveError as error:
                        ends.append(error)
                return None

        tasks = [asyncio.ensure_future(answer(number, asked)) for number, asked in lines]
        try:
            answers = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await self._release(await asyncio.gather(*tasks, return_exceptions=True))
            raise
        return [item for item in answers if item is not None], ends[0] if ends else None

    async def _answer(
        self, dialect: Dialect, caller: Caller, job: Job, number: int, asked: Any, patience: _Patience
    ) -> Answer:
        """Answer a line, waiting for room in the engine where there is none.

        Raises:
            EmbedserveError: the key or its money has ended.
        """
        while True:
            if not self._service.accounts.is_active(caller.key_id):
                raise key_ended()
            try:
                answer = await dialect.answer(self._service, caller, job, number, asked)
            except EmbedserveError as error:
                if ends_the_work(error):
                    raise
                if error.code == "ModelUnavailable":  # nobody needs to wait here for a model that is away
                    raise PostponedError(PATIENCE_SECONDS) from error
                if patience.is_over:
                    raise PostponedError from error
                await asyncio.sleep(min(error.retry_after or 1.0, 5.0))
            else:
                patience.renew()
                return answer


class _Patience:
    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._until = time.monotonic() + PATIENCE_SECONDS

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._until
