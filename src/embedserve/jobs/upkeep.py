"""What jobs need beside being run: leases renewed and taken back, deadlines, retention, litter removed.

Each step stands alone: one that fails, however often, ends no other.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import sqlalchemy as sa

from embedserve.jobs import litter, turns
from embedserve.jobs.files import FileStore
from embedserve.jobs.leases import Worker
from embedserve.jobs.queue import JobQueue
from embedserve.jobs.records import ENDED, Job, Kind, StoredFile
from embedserve.jobs.tries import is_outage, tell
from embedserve.storage.tables import files, jobs

log = logging.getLogger("embedserve.jobs")

_SWEEP_SECONDS = 600.0
_TURN_SECONDS = 3600.0
"""How long ago a turn may be and still matter."""


class Upkeep:
    """All methods block: call them from a thread.

    Args:
        keep: seconds that an ended job of each kind stays, with its outputs; 0 for ever.
    """

    pause = turns.LEASE_SECONDS / 12

    def __init__(self, queue: JobQueue, store: FileStore, worker: Worker, keep: Mapping[Kind, float]) -> None:
        self._queue = queue
        self._store = store
        self._worker = worker
        self._keep = keep
        self._swept_at = -_SWEEP_SECONDS

    def look_after(self) -> bool:
        """Leases and deadlines, one round, which must not take long; true if there may be new work."""
        return any(self._each([self._renew, self.take_back, self._queue.expire_due]))

    def tidy(self) -> None:
        """What may take its time: a disk with much to delete."""
        self._each([self._store.drop_inputs])
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self.purge()
            self._each([self._forget_turns, self._sweep])

    def take_back(self) -> bool:
        """Free what workers of this machine held when they died; true if there were any."""
        dead = self._worker.find_dead()
        for name in dead:
            self._queue.release(name, counts=True)
            self._worker.bury(name)
        return bool(dead)

    def purge(self) -> None:
        """Forget what is past its time: ended jobs with their outputs, and files that were given an end."""
        self._each([self._purge_jobs, self._purge_files])

    @staticmethod
    def _each(steps: Sequence[Callable[[], bool | None]]) -> list[bool]:
        """What each step answered; false for one that failed, which is written to the log."""
        answers = []
        for step in steps:
            try:
                answers.append(bool(step()))
            except Exception as error:
                answers.append(False)
                level = logging.WARNING if is_outage(error) else logging.ERROR
                log.log(level, "upkeep of jobs failed, and is tried again: %s", tell(error))
        return answers

    def _renew(self) -> None:
        self._queue.renew(self._worker.name)

    def _purge_jobs(self) -> None:
        now = time.time()
        for kind, seconds in self._keep.items():
            if not seconds:
                continue
            over = (jobs.c.kind == kind, jobs.c.status.in_(ENDED), jobs.c.ended_at < now - seconds)
            query = sa.select(jobs).where(*over).order_by(jobs.c.ended_at).limit(1000)
            with self._queue.database.read() as connection:
                old = [Job.of(row) for row in connection.execute(query).mappings()]
            self._each([partial(self._forget, job) for job in old])

    def _purge_files(self) -> None:
        with self._queue.database.write() as connection:
            over = sa.delete(files).where(files.c.expires_at < time.time())
            ended = [StoredFile.of(row) for row in connection.execute(over.returning(files)).mappings()]
        self._each([partial(self._store.erase, file) for file in ended])

    def _forget(self, job: Job) -> None:
        """First the rows, then the bytes: what is named is there."""
        with self._queue.database.write() as connection:
            connection.execute(sa.delete(files).where(files.c.job_id == job.id))
            connection.execute(sa.delete(jobs).where(jobs.c.id == job.id))
        shutil.rmtree(self._store.job_folder(job.id), ignore_errors=True)

    def _forget_turns(self) -> None:
        with self._queue.database.write() as connection:
            turns.forget_turns(connection, time.time() - _TURN_SECONDS)

    def _sweep(self) -> None:
        litter.sweep(self._store.database, self._store.folder)
