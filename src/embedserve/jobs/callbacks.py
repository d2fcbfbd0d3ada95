"""Telling callers' servers that their jobs have ended: each on its own, and none for long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import orjson
import sqlalchemy as sa

from embedserve.errors import EmbedserveError
from embedserve.jobs.dialect import Dialect
from embedserve.jobs.download import notify
from embedserve.jobs.errors import GivenUpError
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.records import ENDED, Job, Kind
from embedserve.jobs.tries import is_outage, tell
from embedserve.storage.database import Database
from embedserve.storage.tables import jobs

log = logging.getLogger("embedserve.jobs")

CALLBACK_SECONDS = 3600.0
"""How long after a job's end its callback is tried."""
AT_A_TIME = 8
_CLAIM_SECONDS = 120.0
_PAUSES = (5.0, 600.0)
"""Shortest and longest wait before a callback is told again; in between, half the time since the end."""


class Callbacks:
    """All methods block: call them from a thread."""

    def __init__(self, database: Database, dialects: Mapping[Kind, Dialect], guard: UrlGuard) -> None:
        self._database = database
        self._dialects = dialects
        self._guard = guard

    def claim(self) -> list[Job]:
        """Some ended jobs to be told of, by this caller alone for a while.

        Those that wait longest, and one of each workspace before the second of any: dead ones hold up none.
        """
        now = time.time()
        due = (jobs.c.callback.is_not(None), jobs.c.status.in_(ENDED), jobs.c.callback_at <= now)
        place = sa.func.row_number().over(partition_by=jobs.c.workspace, order_by=jobs.c.callback_at)
        ranked = sa.select(jobs.c.id, jobs.c.callback_at, place.label("place")).where(*due).subquery()
        query = sa.select(ranked.c.id).order_by(ranked.c.place, ranked.c.callback_at).limit(AT_A_TIME)
        with self._database.read() as connection:
            ids = connection.execute(query).scalars().all()
        if not ids:
            return []
        claim = sa.update(jobs).where(jobs.c.id.in_(ids), *due).values(callback_at=now + _CLAIM_SECONDS)
        with self._database.write() as connection:
            return [Job.of(row) for row in connection.execute(claim.returning(jobs)).mappings()]

    def tell(self, job: Job, keep_going: Callable[[], bool] = lambda: True) -> None:
        """Tell one, at least once: a crash may repeat it. Whatever is wrong with it is written to the log."""
        try:
            told = self._tell(job, keep_going)
        except GivenUpError:
            told = False
        except Exception as error:
            log.error("callback of %s: %s", job.id, tell(error))
            told = False
        age = time.time() - (job.ended_at or 0)
        try:
            if told or age > CALLBACK_SECONDS:
                self._change(job, callback=None)
            else:
                pause = min(max(age / 2, _PAUSES[0]), _PAUSES[1])
                self._change(job, callback_at=time.time() + pause)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("callback of %s is told again later: %s", job.id, tell(error))

    def _tell(self, job: Job, keep_going: Callable[[], bool]) -> bool:
        """Whether there is nothing more to do."""
        body = orjson.dumps(self._dialects[job.kind].describe(job))
        try:
            return notify(job.callback or "", body, self._guard, keep_going=keep_going)
        except EmbedserveError as error:
            log.warning("callback of %s: %s", job.id, error.code)
            return error.code == "InvalidURL"  # it was taken off the list: trying again is no use

    def _change(self, job: Job, **values: object) -> None:
        with self._database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(**values))
