"""Works through the jobs: check, cut, answer chunk after chunk, book.

Everything that blocks (disk, database, downloads) runs in threads; the event loop only hands texts to the
service, in the bulk lane. A runner that is killed leaves leases behind and perhaps parts that nobody booked;
the next one takes the leases back and writes the same bytes again (vectors and ids do not change).
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from embedserve.accounts.caller import Caller
from embedserve.accounts.errors import ends_the_work, key_ended
from embedserve.errors import EmbedserveError
from embedserve.jobs.dialect import Answer, Dialect
from embedserve.jobs.download import download
from embedserve.jobs.errors import StorageFullError
from embedserve.jobs.files import FileStore
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.leases import Worker
from embedserve.jobs.plan import make_plan, read_chunk
from embedserve.jobs.queue import ERROR, OUTPUT, ChunkResult, JobQueue
from embedserve.jobs.records import Chunk, Job, Kind
from embedserve.jobs.upkeep import Upkeep
from embedserve.service import EmbeddingService

log = logging.getLogger("embedserve.jobs")

P = ParamSpec("P")
T = TypeVar("T")

LINES_AT_A_TIME = 16
"""Lines that one chunk has at the service together."""
FETCHES = 3
"""Inputs that are fetched from other hosts at a time; jobs whose input is here never wait for them."""
POLL_SECONDS = 1.0
"""How often to look for what other nodes have put in; a node's own jobs wake it at once."""
PATIENCE_SECONDS = 30.0
"""How long a chunk waits for room in the engine before it is given back."""
_BROKEN_SECONDS = 2.0


class _PostponedError(Exception):
    """The engine has no room for bulk work now."""


class Runner:
    """The workers of one process.

    Args:
        concurrency: chunks at a time: while one is written and booked, the other keeps the engine busy.
    """

    def __init__(
        self,
        service: EmbeddingService,
        queue: JobQueue,
        files: FileStore,
        dialects: Mapping[Kind, Dialect],
        guard: UrlGuard,
        worker: Worker,
        upkeep: Upkeep,
        *,
        concurrency: int = 2,
    ) -> None:
        self.service = service
        self.queue = queue
        self.files = files
        self.dialects = dialects
        self.worker = worker
        self.upkeep = upkeep
        self.concurrency = concurrency
        self._guard = guard
        self._threads = ThreadPoolExecutor(concurrency + FETCHES + 3, thread_name_prefix="embedserve-jobs")
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._stranded: list[tuple[Job, Chunk | None]] = []  # leased here, failed, and not yet given back

    async def start(self) -> None:
        await self._thread(self.upkeep.take_back)
        loops: list[Callable[[], Coroutine[None, None, None]]] = [
            partial(self._check_jobs, fetched=False),
            *[partial(self._check_jobs, fetched=True)] * FETCHES,
            *[self._run_chunks] * self.concurrency,
            self._look_after,
            self._tidy,
        ]
        self._tasks = [asyncio.create_task(loop(), name="embedserve-jobs") for loop in loops]

    async def close(self) -> None:
        """Stop where we are; what was not booked is given back for the next runner."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._thread(self.queue.release, self.worker.name)
        except SQLAlchemyError as error:
            log.warning("leases were not given back (%s): they run out", type(error).__name__)
        self._threads.shutdown()
        self.worker.close()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _rest(self, seconds: float = POLL_SECONDS) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _check_jobs(self, fetched: bool) -> None:
        while True:
            try:
                await self._give_back()
                job = await self._thread(self.queue.lease_check, self.worker.name, fetched)
                if job is None:
                    await self._rest()
                    continue
                try:
                    await self._check(job)
                except Exception:
                    self._stranded.append((job, None))
                    raise
                self.wake()
            except Exception:
                log.exception("checking jobs failed")
                await asyncio.sleep(_BROKEN_SECONDS)

    async def _run_chunks(self) -> None:
        while True:
            try:
                await self._give_back()
                leased = await self._thread(self.queue.lease_chunk, self.worker.name)
                if leased is None:
                    await self._rest()
                    continue
                try:
                    await self._run(*leased)
                except Exception:
                    self._stranded.append(leased)
                    raise
                self.wake()
            except Exception:
                log.exception("running jobs failed")
                await asyncio.sleep(_BROKEN_SECONDS)

    async def _give_back(self) -> None:
        """What failed for a reason that is not the job's, such as a database that is away, is tried again."""
        while self._stranded:
            job, chunk = self._stranded[-1]
            if chunk is None:
                await self._thread(self.queue.postpone_check, job, self.worker.name)
            else:
                await self._thread(self.queue.postpone_chunk, job, chunk, self.worker.name)
            self._stranded.remove((job, chunk))

    async def _look_after(self) -> None:
        while True:
            try:
                if await self._thread(self.upkeep.look_after):
                    self.wake()
            except Exception:
                log.exception("looking after jobs failed")
            await asyncio.sleep(self.upkeep.pause)

    async def _tidy(self) -> None:
        while True:
            try:
                await self._thread(self.upkeep.tidy)
            except Exception:
                log.exception("tidying up after jobs failed")
            await asyncio.sleep(self.upkeep.pause)

    # one job

    async def _check(self, job: Job) -> None:
        dialect = self.dialects[job.kind]
        try:
            await self._caller_of(job)
            await self._thread(self._fetch, job, dialect)
            plan = await self._thread(make_plan, self._input(job), job, dialect)
            problems = plan.problems
        except StorageFullError as error:
            problems = [dialect.problem("storage_full", message=error.message)]
        except FileNotFoundError:
            problems = [dialect.problem("missing")]
        except EmbedserveError as error:
            problems = [dialect.refusal(error)]
        if problems:
            await self._thread(self.queue.fail, job, problems)
        else:
            await self._thread(self.queue.begin, job, self.worker.name, plan.model, plan.chunks)

    async def _caller_of(self, job: Job) -> Caller:
        """Whose work it is, as the key is now. Raises EmbedserveError (401) if it has ended."""
        find = self.service.accounts.find_caller
        if self.service.accounts.is_active(job.key_id):
            return find(job.key_id, job.workspace)
        return await self._thread(find, job.key_id, job.workspace)

    def _input(self, job: Job) -> Path:
        if job.input_file_id:
            return self.files.upload_path(job.input_file_id)
        return self.files.job_folder(job.id) / "input"

    def _fetch(self, job: Job, dialect: Dialect) -> None:
        """Have the input on disk: fetched from its URL, if it is not there yet."""
        path = self._input(job)
        if job.input_url is None or path.exists():
            return
        self.files.check_room()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        draft = path.with_name(".input")
        download(
            job.input_url,
            draft,
            self._guard,
            limit=dialect.max_file_bytes,
            keep_going=lambda: not self._closing,
        )
        draft.rename(path)

    # one chunk

    async def _run(self, job: Job, chunk: Chunk) -> None:
        dialect = self.dialects[job.kind]
        answers: Sequence[Answer] = []
        end: EmbedserveError | None = None
        try:
            lines = [
                (number, line)
                for number, line in await self._thread(read_chunk, self._input(job), chunk)
                if line.strip()
            ]
            if job.status == "in_progress":
                caller = await self._caller_of(job)
                answers, end = await self._answer_all(dialect, caller, job, lines)
            else:
                answers = [dialect.decline(job, number, line) for number, line in lines]
            await self._book(job, chunk, dialect, answers, end)
        except _PostponedError:
            await self._thread(self.queue.postpone_chunk, job, chunk, self.worker.name)
        except StorageFullError as error:
            log.error("job %s fails: %s", job.id, error.message)
            await self._thread(self.queue.fail, job, [dialect.problem("storage_full", message=error.message)])
        except FileNotFoundError:
            await self._thread(self.queue.fail, job, [dialect.problem("missing")])
        except EmbedserveError as error:
            if not ends_the_work(error):
                raise
            await self._thread(self.queue.fail, job, [dialect.refusal(error)])
        finally:
            for answer in answers:
                if answer.reservation is not None:
                    await self.service.accounts.release(answer.reservation)

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
        accounts = self.service.accounts
        with accounts.spending.step:
            booking = self.queue.finish_chunk(job, chunk, self.worker.name, result)
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
            sizes.append(self.files.write_part(job.id, chunk.number, suffix, lines))
        return sizes[0], sizes[1]

    async def _answer_all(
        self, dialect: Dialect, caller: Caller, job: Job, lines: Sequence[tuple[int, bytes]]
    ) -> tuple[list[Answer], EmbedserveError | None]:
        """The answers, and why they are not all there: the key or its money came to an end."""
        room = asyncio.Semaphore(LINES_AT_A_TIME)
        until = time.monotonic() + PATIENCE_SECONDS
        ends: list[EmbedserveError] = []

        async def answer(number: int, line: bytes) -> Answer | None:
            async with room:
                if not ends:
                    try:
                        return await self._answer(dialect, caller, job, number, line, until)
                    except EmbedserveError as error:
                        ends.append(error)
                return None

        tasks = [asyncio.ensure_future(answer(number, line)) for number, line in lines]
        try:
            answers = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for item in done:
                if isinstance(item, Answer) and item.reservation is not None:
                    await self.service.accounts.release(item.reservation)
            raise
        return [item for item in answers if item is not None], ends[0] if ends else None

    async def _answer(
        self, dialect: Dialect, caller: Caller, job: Job, number: int, line: bytes, until: float
    ) -> Answer:
        """Answer a line, waiting for room in the engine where there is none.

        Raises:
            EmbedserveError: the key or its money has ended.
        """
        while True:
            if not self.service.accounts.is_active(caller.key_id):
                raise key_ended()
            try:
                return await dialect.answer(self.service, caller, job, number, line)
            except EmbedserveError as error:
                if ends_the_work(error):
                    raise
                if time.monotonic() > until:
                    raise _PostponedError from error
                await asyncio.sleep(min(error.retry_after or 1.0, 5.0))
