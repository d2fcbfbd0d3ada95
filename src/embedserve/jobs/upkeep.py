"""What jobs need beside being run: leases renewed and taken back, deadlines, callbacks, retention."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping

import orjson
import sqlalchemy as sa

from embedserve.errors import EmbedserveError
from embedserve.jobs.dialect import Dialect
from embedserve.jobs.download import notify
from embedserve.jobs.files import FileStore
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.leases import Worker
from embedserve.jobs.queue import LEASE_SECONDS, JobQueue
from embedserve.jobs.records import ENDED, Job, Kind, StoredFile
from embedserve.storage.tables import files, jobs

log = logging.getLogger("embedserve.jobs")

CALLBACK_SECONDS = 3600.0
"""How long after a job's end its callback is tried."""
_SWEEP_SECONDS = 600.0


class Upkeep:
    """All methods block: call them from a thread.

    Args:
        keep: seconds that an ended job of each kind stays, with its outputs; 0 for ever.
    """

    pause = LEASE_SECONDS / 12

    def __init__(
        self,
        queue: JobQueue,
        store: FileStore,
        worker: Worker,
        dialects: Mapping[Kind, Dialect],
        callbacks: UrlGuard,
        keep: Mapping[Kind, float],
    ) -> None:
        self._queue = queue
        self._store = store
        self._worker = worker
        self._dialects = dialects
        self._callbacks = callbacks
        self._keep = keep
        self._swept_at = 0.0

    def take_back(self) -> bool:
        """Free what workers of this machine held when they died; true if there were any."""
        dead = self._worker.find_dead()
        for name in dead:
            self._queue.release(name)
            self._worker.bury(name)
        return bool(dead)

    def look_after(self) -> bool:
        """Leases and deadlines, one round, which must not take long; true if there may be new work."""
        self._queue.renew(self._worker.name)
        found = self.take_back()
        return self._queue.expire_due() or found

    def tidy(self) -> None:
        """What may take its time: the other side of a callback, a disk with much to delete."""
        self.call_back()
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self.purge()
            self._store.sweep()

    def call_back(self) -> None:
        """Tell those who asked that their job has ended. At least once: a crash may repeat it."""
        for job in self._queue.callbacks():
            body = orjson.dumps(self._dialects[job.kind].describe(job))
            try:
                told = notify(job.callback or "", body, self._callbacks)
            except EmbedserveError as error:
                log.warning("callback of %s: %s", job.id, error.message)
                told = error.code == "InvalidURL"  # it was taken off the list: trying again is no use
            if told or time.time() > (job.ended_at or 0) + CALLBACK_SECONDS:
                self._queue.close_callback(job)

    def purge(self) -> None:
        """Forget what is past its time: ended jobs with their outputs, and files that were given an end."""
        now = time.time()
        for kind, seconds in self._keep.items():
            if seconds:
                query = sa.select(jobs).where(
                    jobs.c.kind == kind, jobs.c.status.in_(ENDED), jobs.c.ended_at < now - seconds
                )
                with self._queue.database.read() as connection:
                    old = [Job.of(row) for row in connection.execute(query.limit(1000)).mappings()]
                for job in old:
                    self._forget(job)
        with self._queue.database.write() as connection:
            gone = connection.execute(
                sa.delete(files).where(files.c.expires_at < now).returning(files)
            ).mappings()
            ended = [StoredFile.of(row) for row in gone]
        for file in ended:
            self._store.erase(file)

    def _forget(self, job: Job) -> None:
        """First the rows, then the bytes: what is named is there."""
        with self._queue.database.write() as connection:
            connection.execute(sa.delete(files).where(files.c.job_id == job.id))
            connection.execute(sa.delete(jobs).where(jobs.c.id == job.id))
        shutil.rmtree(self._store.job_folder(job.id), ignore_errors=True)
