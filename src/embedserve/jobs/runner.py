"""Works through the jobs: leases work, sees it through, and decides what becomes of what raised.

A runner that is killed leaves leases behind and perhaps parts that nobody booked; the next one takes the
leases back and writes the same bytes again (vectors and ids do not change). Whatever raises ends at most the
job that it came from, and never a loop in here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from embedserve.accounts.errors import ends_the_work
from embedserve.errors import EmbedserveError
from embedserve.jobs.callbacks import AT_A_TIME, Callbacks
from embedserve.jobs.dialect import Dialect
from embedserve.jobs.errors import GivenUpError, PostponedError, StorageFullError
from embedserve.jobs.files import FileStore
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.leases import Worker
from embedserve.jobs.queue import JobQueue
from embedserve.jobs.records import Chunk, Job, Kind, Problem
from embedserve.jobs.steps import Steps
from embedserve.jobs.tries import MANY_TRIES, MAX_RAISED, MAX_TRIES, is_outage, pause_after, tell
from embedserve.jobs.upkeep import Upkeep
from embedserve.service import EmbeddingService

log = logging.getLogger("embedserve.jobs")

P = ParamSpec("P")
T = TypeVar("T")
Lease = tuple[Job, Chunk | None]

FETCHES = 12
"""Inputs that are fetched from other hosts at a time, three of a workspace; others never wait for them."""
CHECKS, SMALL_CHECKS = 3, 1
"""Inputs that are checked at a time, of different workspaces; and small ones beside them."""
POLL_SECONDS = 1.0
"""How often to look for what other nodes have put in; a node's own jobs wake it at once."""
_BROKEN_SECONDS = 2.0


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
        callbacks: Callbacks,
        *,
        concurrency: int = 2,
    ) -> None:
        self.service = service
        self.queue = queue
        self.files = files
        self.dialects = dialects
        self.worker = worker
        self.upkeep = upkeep
        self.callbacks = callbacks
        self.concurrency = concurrency
        at_a_time = concurrency + FETCHES + CHECKS + SMALL_CHECKS + AT_A_TIME
        self._threads = ThreadPoolExecutor(at_a_time + 4, thread_name_prefix="embedserve-jobs")
        self._steps = Steps(
            service,
            queue,
            files,
            dialects,
            guard,
            self._threads,
            worker.name,
            self._keep_going,
        )
        self._loops: list[asyncio.Task[None]] = []
        self._work: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self._taking = asyncio.Lock()
        self._on_trial = False  # a piece of work that was tried often is under way
        self._returns: deque[Callable[[], None]] = deque()  # leases to be given back

    async def start(self) -> None:
        await self._thread(self.upkeep.take_back)
        loops: list[Coroutine[None, None, None]] = [
            self._serve(self.concurrency, self._take_chunk, self._run),
            self._serve(CHECKS, partial(self._take_check, small=False), self._check),
            self._serve(SMALL_CHECKS, partial(self._take_check, small=True), self._check),
            self._serve(FETCHES, self._take_fetch, self._fetch, deadly=False),
            self._repeat(self._look_after),
            self._repeat(self._tidy),
            self._repeat(self._call_back),
        ]
        self._loops = [asyncio.create_task(loop, name="embedserve-jobs") for loop in loops]

    async def close(self) -> None:
        """Stop where we are; what was not booked is given back for the next runner."""
        self._closing = True
        for task in [*self._loops, *self._work]:
            task.cancel()
        await asyncio.gather(*self._loops, *self._work, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)  # nobody takes a lease after this
        try:
            await asyncio.to_thread(self.queue.release, self.worker.name, counts=False)
        except Exception as error:
            log.warning("leases were not given back: they run out (%s)", tell(error))
        self.worker.close()

    def _keep_going(self) -> bool:
        return not self._closing

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _rest(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    # loops

    async def _serve(
        self,
        slots: int,
        take: Callable[[bool], Lease | None],
        work: Callable[[Job, Chunk | None], Awaitable[None]],
        *,
        deadly: bool = True,
    ) -> None:
        """Take work of one kind for as long as there is any, ``slots`` pieces at a time.

        Args:
            deadly: such work might end the process, so what was tried often runs alone.
        """
        room = asyncio.Semaphore(slots)
        while True:
            await room.acquire()
            try:
                lease, trial = await self._take(take, deadly)
            except Exception as error:
                log.warning("jobs cannot be taken: %s", tell(error))
                room.release()
                await asyncio.sleep(_BROKEN_SECONDS)
                continue
            if lease is None:
                room.release()
                await self._rest()
                continue
            task = asyncio.create_task(self._see_through(*lease, work), name="embedserve-job")
            self._work.add(task)
            task.add_done_callback(partial(self._end, room, trial))

    async def _take(self, take: Callable[[bool], Lease | None], deadly: bool) -> tuple[Lease | None, bool]:
        """A lease, and whether it is on trial: then no other such one runs here until it has ended."""
        await self._give_back()
        async with self._taking:
            lease = await self._thread(take, not self._on_trial)
            trial = deadly and lease is not None and _tries(*lease) > MANY_TRIES
            self._on_trial = self._on_trial or trial
            return lease, trial

    def _end(self, room: asyncio.Semaphore, trial: bool, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if trial:
            self._on_trial = False
        room.release()
        self.wake()
        if not task.cancelled() and (error := task.exception()):
            log.error("a job's end failed: %s", tell(error))

    def _take_chunk(self, suspects: bool) -> Lease | None:
        return self.queue.lease_chunk(self.worker.name, suspects=suspects)

    def _take_check(self, suspects: bool, *, small: bool) -> Lease | None:
        job = self.queue.lease_check(self.worker.name, small=small, suspects=suspects)
        return (job, None) if job else None

    def _take_fetch(self, suspects: bool) -> Lease | None:
        job = self.queue.lease_fetch(self.worker.name)
        return (job, None) if job else None

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:
                log.error("looking after jobs failed: %s", tell(error))
            await asyncio.sleep(self.upkeep.pause)

    async def _look_after(self) -> None:
        await self._give_back()
        if await self._thread(self.upkeep.look_after):
            self.wake()

    async def _tidy(self) -> None:
        await self._thread(self.upkeep.tidy)

    async def _call_back(self) -> None:
        while found := await self._thread(self.callbacks.claim):
            told = [self._thread(self.callbacks.tell, job, self._keep_going) for job in found]
            await asyncio.gather(*told, return_exceptions=True)

    # one lease

    async def _fetch(self, job: Job, chunk: Chunk | None) -> None:
        await self._steps.fetch(job)

    async def _check(self, job: Job, chunk: Chunk | None) -> None:
        await self._steps.check(job)

    async def _run(self, job: Job, chunk: Chunk | None) -> None:
        assert chunk is not None
        await self._steps.run(job, chunk)

    async def _see_through(
        self, job: Job, chunk: Chunk | None, work: Callable[[Job, Chunk | None], Awaitable[None]]
    ) -> None:
        """Do one piece of leased work; whatever it raises has its consequences here."""
        try:
            if _tries(job, chunk) > MAX_TRIES:
                await self._give_up(job, MAX_TRIES)
            else:
                await work(job, chunk)
        except BaseException as error:  # a panic of native code is no Exception; nor is being cancelled
            if self._closing or isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            await self._set_back(job, chunk, error)

    async def _set_back(self, job: Job, chunk: Chunk | None, error: BaseException) -> None:
        """Work raised: end the job, or have it tried again."""
        try:
            problem = self._verdict(job, chunk, error)
            tries = _tries(job, chunk)
            if problem is not None:
                await self._fail(job, problem)
                return
            if isinstance(error, PostponedError):
                counts, pause = False, error.pause
            elif isinstance(error, GivenUpError):
                counts, pause = False, 0.0
            elif is_outage(error) or _is_refusal_of_the_moment(error):
                log.warning("job %s waits for database, disk or engine: %s", job.id, tell(error))
                counts, pause = False, _BROKEN_SECONDS
            else:
                log.error("job %s: try %d of %d failed: %s", job.id, tries, MAX_RAISED, tell(error))
                if tries >= MAX_RAISED:
                    await self._give_up(job, tries)
                    return
                counts, pause = True, pause_after(tries)
        except Exception as second:  # the end of a job could not be written down: it is tried once more
            log.warning("job %s could not be ended: %s", job.id, tell(second))
            counts, pause = not is_outage(second), _BROKEN_SECONDS
        back = partial(self.queue.give_back, job, chunk, self.worker.name, counts=counts, pause=pause)
        self._returns.append(back)
        await self._give_back()

    def _verdict(self, job: Job, chunk: Chunk | None, error: BaseException) -> Problem | None:
        """Why a job ends here; None where it may be tried again."""
        dialect = self.dialects[job.kind]
        if isinstance(error, StorageFullError):
            log.error("job %s fails: %s", job.id, error.message)
            return dialect.problem("storage_full", message=error.message)
        if isinstance(error, FileNotFoundError):
            return dialect.problem("missing")
        if not isinstance(error, EmbedserveError) or _is_refusal_of_the_moment(error):
            return None
        return dialect.refusal(error) if chunk is None or ends_the_work(error) else None

    async def _give_up(self, job: Job, tries: int) -> None:
        await self._fail(job, self.dialects[job.kind].problem("given_up", tries=tries))

    async def _fail(self, job: Job, problem: Problem) -> None:
        try:
            await self._thread(self.queue.fail, job, [problem])
        except Exception as error:
            if is_outage(error):
                raise
            log.error("job %s ends without its files: %s", job.id, tell(error))
            await self._thread(self.queue.bury, job, problem)

    async def _give_back(self) -> None:
        """What could not be given back, as while a database was away, is as soon as it can be."""
        for _ in range(len(self._returns)):
            if not self._returns:
                return
            back = self._returns.popleft()
            try:
                await self._thread(back)
            except Exception as error:
                self._returns.append(back)
                log.warning("a lease was not given back yet: %s", tell(error))


def _tries(job: Job, chunk: Chunk | None) -> int:
    """Of the work, with this one."""
    return (chunk or job).attempts


def _is_refusal_of_the_moment(error: BaseException) -> bool:
    return isinstance(error, EmbedserveError) and error.status in (429, 503)
