"""Jobs and their chunks in the database: who may do what next, and what is done for good.

Every change that matters is one transaction, and names the state it expects to find. A chunk is *done* in the
same transaction that bills its lines and counts them; a worker whose lease was taken over finds its chunk
gone and books nothing. So each line ends up in the output and in the ledger exactly once, whoever dies when.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedserve.accounts.charges import Booking, Charge, write_charges
from embedserve.errors import EmbedserveError
from embedserve.jobs import turns
from embedserve.jobs.ending import end_job, fail_job, lock_job, note_problems
from embedserve.jobs.errors import no_such
from embedserve.jobs.records import ENDED, RUNNING, Chunk, Job, Kind, Problem, Status
from embedserve.jobs.tries import pause_after
from embedserve.jobs.turns import LEASE_SECONDS
from embedserve.storage.database import Database
from embedserve.storage.tables import job_chunks, jobs

OPEN_JOBS: dict[Kind, int] = {"batch": 1000, "task": 50}
"""Jobs of a workspace that may be unfinished at a time, as the original allows."""
_BLOCK = 1000


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What running a chunk gave.

    Attributes:
        usage: (request id, tokens) of each line that is billed.
        problem: why the job ends here, as failed; lines of the chunk that were not run count as nothing.
    """

    completed: int
    failed: int
    output_bytes: int
    error_bytes: int
    usage: Sequence[tuple[str, int]]
    problem: Problem | None = None


class _LeaseLostError(Exception):
    """Somebody else has the chunk, or its job has ended: roll back."""


class JobQueue:
    """All methods block: call them from a thread."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # for the doors

    def create(self, job: Job) -> Job:
        """Raises EmbedserveError (429) if the workspace has too many unfinished jobs."""
        with self.database.write() as connection:
            unfinished = sa.select(sa.func.count()).where(
                jobs.c.workspace == job.workspace, jobs.c.kind == job.kind, jobs.c.status.not_in(ENDED)
            )
            if connection.execute(unfinished).scalar_one() >= OPEN_JOBS[job.kind]:
                raise EmbedserveError(
                    "Too many requests. Batch requests are being throttled due to system capacity limits. "
                    "Please try again later.",
                    status=429,
                    code="Throttling.AllocationQuota",
                    openai_code="insufficient_quota",
                    retry_after=5,
                )
            columns = {field.name: getattr(job, field.name) for field in fields(Job)}
            connection.execute(sa.insert(jobs).values(columns))
        return job

    def get(self, workspace: str, id: str, kind: Kind) -> Job:
        """Raises EmbedserveError (404) if it is not there or belongs to another workspace."""
        query = sa.select(jobs).where(jobs.c.id == id, jobs.c.kind == kind, jobs.c.workspace == workspace)
        with self.database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise no_such(kind, id)
        return Job.of(row)

    def page(
        self,
        workspace: str,
        kind: Kind,
        conditions: Sequence[sa.ColumnElement[bool]],
        *,
        limit: int,
        after: str | None = None,
        offset: int = 0,
    ) -> tuple[list[Job], bool]:
        """(a page, whether more follow), newest first."""
        query = sa.select(jobs).where(jobs.c.workspace == workspace, jobs.c.kind == kind, *conditions)
        if after:
            last = self.get(workspace, after, kind)
            mark = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            query = query.where(sa.tuple_(jobs.c.created_at, jobs.c.id) < mark)
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1).offset(offset)
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [Job.of(row) for row in rows[:limit]], len(rows) > limit

    def count(self, workspace: str, kind: Kind, conditions: Sequence[sa.ColumnElement[bool]]) -> int:
        query = sa.select(sa.func.count()).where(
            jobs.c.workspace == workspace, jobs.c.kind == kind, *conditions
        )
        with self.database.read() as connection:
            return connection.execute(query).scalar_one()

    def cancel(self, workspace: str, id: str, kind: Kind, *, only_pending: bool = False) -> Job | None:
        """The job as it is now; None if it is too late.

        What waits to be checked is cancelled at once; what runs finishes the lines it is at.

        Args:
            only_pending: not what is being worked on, nor has been begun.
        """
        now = time.time()
        with self.database.write() as connection:
            job = lock_job(connection, id)
            if job is None or job.workspace != workspace or job.kind != kind:
                raise no_such(kind, id)
            if job.status in ENDED or job.status in ("cancelling", "finalizing"):
                return None
            if only_pending and job.started_at is not None and self._is_held(connection, id, now):
                return None
            if job.status == "validating":
                changes: dict[str, Any] = {"status": "cancelled", "cancelling_at": now, "ended_at": now}
            else:
                changes = {"status": "cancelling", "cancelling_at": now}
            connection.execute(sa.update(jobs).where(jobs.c.id == id).values(changes))
        return self.get(workspace, id, kind)

    @staticmethod
    def _is_held(connection: Connection, id: str, now: float) -> bool:
        """Whether somebody works on a job, or has begun it; one that was tried and waits is nobody's."""
        waits = sa.select(jobs.c.id).where(
            jobs.c.id == id, jobs.c.status == "validating", turns.is_free(jobs, now)
        )
        return connection.execute(waits).first() is None

    # for the workers

    def lease_fetch(self, worker: str) -> Job | None:
        """A job whose input is to be fetched."""
        return self._lease_job(worker, turns.fetches(time.time()))

    def lease_check(self, worker: str, *, small: bool = False, suspects: bool = True) -> Job | None:
        """A job that waits to be checked and cut into chunks. For the arguments see :func:`.turns.checks`."""
        return self._lease_job(worker, turns.checks(time.time(), worker, small=small, suspects=suspects))

    def _lease_job(self, worker: str, query: sa.Select[Any]) -> Job | None:
        now = time.time()
        with (
            self.database.read() as connection
        ):  # nothing to do is what is found most: not worth a write lock
            if connection.execute(query).first() is None:
                return None
        with self.database.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True, of=jobs)).mappings().first()
            if row is None:
                return None
            changes: dict[str, Any] = {
                "owner": worker,
                "lease_until": now + LEASE_SECONDS,
                "attempts": row["attempts"] + 1,
                "not_before": _pause(now, row["attempts"]),
            }
            if row["started_at"] is None:
                changes["started_at"] = now
            connection.execute(sa.update(jobs).where(jobs.c.id == row["id"]).values(changes))
            turns.note_turn(connection, row["workspace"], now=now, check=True)
            return Job.of({**row, **changes})

    def end_fetch(self, job: Job, worker: str, size: int) -> bool:
        """The input is here: let it be checked. False if the job is no longer this worker's."""
        done = {"fetched_at": time.time(), "input_bytes": size, "owner": None, "lease_until": None}
        with self.database.write() as connection:
            return bool(self.change_own(connection, job, worker, attempts=0, not_before=0.0, **done))

    @staticmethod
    def change_own(connection: Connection, job: Job, worker: str, **values: Any) -> int:
        """Change a job that this worker has, to fetch or to check it; rows changed."""
        own = (jobs.c.id == job.id, jobs.c.status == "validating", jobs.c.owner == worker)
        return connection.execute(sa.update(jobs).where(*own).values(values)).rowcount

    def begin(self, job: Job, worker: str, model: str, chunks: Sequence[Chunk]) -> bool:
        """The job was checked: let its chunks run. False if it was cancelled or taken over meanwhile."""
        with self.database.write() as connection:
            changed = self.change_own(
                connection,
                job,
                worker,
                status="in_progress",
                in_progress_at=time.time(),
                model=model,
                total=sum(chunk.lines for chunk in chunks),
                chunks_left=len(chunks),
                owner=None,
                lease_until=None,
                attempts=0,
                not_before=0.0,
            )
            if not changed:
                return False
            rows = [
                {
                    "job_id": job.id,
                    "number": c.number,
                    "first_line": c.first_line,
                    "lines": c.lines,
                    "start": c.start,
                    "length": c.length,
                }
                for c in chunks
            ]
            for first in range(0, len(rows), _BLOCK):
                connection.execute(sa.insert(job_chunks), rows[first : first + _BLOCK])
        return True

    def lease_chunk(self, worker: str, *, suspects: bool = True) -> tuple[Job, Chunk] | None:
        """The next chunk of the workspace, and then of its job, that was served longest ago.

        Args:
            suspects: also chunks that were tried often.
        """
        now = time.time()
        with self.database.read() as connection:
            if connection.execute(turns.running(now, suspects=suspects)).first() is None:
                return None
        with self.database.write() as connection:
            others: list[str] = []
            while True:
                query = turns.running(now, suspects=suspects, without=others)
                job = connection.execute(query).first()
                if job is None:
                    return None
                row = connection.execute(turns.chunks(job[0], now, suspects=suspects)).mappings().first()
                if row is not None:
                    return self._lease_chunk(connection, worker, row, job[1], now)
                others.append(job[0])  # another worker is about to take its last one

    def _lease_chunk(
        self, connection: Connection, worker: str, row: sa.RowMapping, workspace: str, now: float
    ) -> tuple[Job, Chunk]:
        changes = {
            "owner": worker,
            "lease_until": now + LEASE_SECONDS,
            "attempts": row["attempts"] + 1,
        }
        place = (job_chunks.c.job_id == row["job_id"], job_chunks.c.number == row["number"])
        connection.execute(sa.update(job_chunks).where(*place).values(changes))
        served = {"served_at": now, "not_before": _pause(now, row["attempts"])}
        job = connection.execute(
            sa.update(jobs).where(jobs.c.id == row["job_id"]).values(served).returning(jobs)
        ).mappings()
        leased = Job.of(job.one()), Chunk.of({**row, **changes})
        turns.note_turn(connection, workspace, now=now, check=False)
        return leased

    def finish_chunk(self, job: Job, chunk: Chunk, worker: str, result: ChunkResult) -> Booking | None:
        """Book a chunk: done, counted and billed, or nothing of it; None if the lease was lost."""
        try:
            with self.database.write() as connection:
                return self._book(connection, job, chunk, worker, result)
        except _LeaseLostError:
            return None

    def _book(
        self, connection: Connection, job: Job, chunk: Chunk, worker: str, result: ChunkResult
    ) -> Booking:
        now = time.time()
        # The chunk before the job, as in lease_chunk: two workers never wait for each other.
        changed = connection.execute(
            sa.update(job_chunks)
            .where(
                job_chunks.c.job_id == job.id,
                job_chunks.c.number == chunk.number,
                job_chunks.c.done.is_(False),
                job_chunks.c.owner == worker,
            )
            .values(
                done=True,
                output_bytes=result.output_bytes,
                error_bytes=result.error_bytes,
                owner=None,
                lease_until=None,
            )
        )
        current = lock_job(connection, job.id)
        if not changed.rowcount or current is None or current.status not in RUNNING:
            raise _LeaseLostError
        charges = [
            Charge(id, job.key_id, job.workspace, current.model, tokens, "batch", now)
            for id, tokens in result.usage
        ]
        billed = write_charges(connection, charges)
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.id == job.id)
            .values(
                completed=jobs.c.completed + result.completed,
                failed=jobs.c.failed + result.failed,
                tokens=jobs.c.tokens + sum(tokens for _, tokens in result.usage),
                output_bytes=jobs.c.output_bytes + result.output_bytes,
                error_bytes=jobs.c.error_bytes + result.error_bytes,
                chunks_left=jobs.c.chunks_left - 1,
                **({"not_before": 0.0} if chunk.attempts > 1 else {}),
            )
        )
        if result.problem is not None:
            fail_job(connection, job.id, [result.problem], now)
            return billed
        left = sa.select(jobs.c.chunks_left).where(jobs.c.id == job.id)
        if not connection.execute(left).scalar_one():
            ends: dict[Status, Status] = {"cancelling": "cancelled", "finalizing": "expired"}
            end_job(connection, job.id, ends.get(current.status, "completed"), now)
        return billed

    def give_back(
        self, job: Job, chunk: Chunk | None, worker: str, *, counts: bool, pause: float = 0.0
    ) -> None:
        """Give back what is not done.

        Args:
            counts: it was a try.
            pause: seconds until the job's next turn.
        """
        table, place = jobs, [jobs.c.id == job.id]
        if chunk is not None:
            table, place = job_chunks, [job_chunks.c.job_id == job.id, job_chunks.c.number == chunk.number]
        with self.database.write() as connection:
            changed = connection.execute(
                sa.update(table).where(*place, table.c.owner == worker).values(_freed(table, counts))
            )
            if changed.rowcount:
                rested = sa.update(jobs).where(jobs.c.id == job.id)
                connection.execute(rested.values(not_before=time.time() + pause))

    def fail(self, job: Job, problems: Sequence[Problem]) -> bool:
        """Give a job up; lines that are done stay in its output, and billed. False if it had ended."""
        with self.database.write() as connection:
            current = lock_job(connection, job.id)
            if current is None or current.status in ENDED:
                return False
            fail_job(connection, job.id, problems, time.time())
        return True

    def bury(self, job: Job, problem: Problem) -> None:
        """:meth:`fail` for a job that cannot be failed as it should be: without files of what was done."""
        with self.database.write() as connection:
            open_job = sa.update(jobs).where(jobs.c.id == job.id, jobs.c.status.not_in(ENDED))
            ended = {"status": "failed", "ended_at": time.time(), "owner": None, "lease_until": None}
            if connection.execute(open_job.values(ended)).rowcount:
                note_problems(connection, job.id, [problem])

    def expire_due(self) -> bool:
        """Jobs past their deadline: what waits expires at once, what runs answers its open lines so.

        True if there were any."""
        now = time.time()
        late = (jobs.c.deadline < now,)
        with self.database.read() as connection:
            due = sa.select(jobs.c.id).where(*late, jobs.c.status.in_(("validating", "in_progress"))).limit(1)
            if connection.execute(due).first() is None:
                return False
        with self.database.write() as connection:
            waiting = sa.update(jobs).where(*late, jobs.c.status == "validating")
            connection.execute(waiting.values(status="expired", ended_at=now))
            running = sa.update(jobs).where(*late, jobs.c.status == "in_progress")
            connection.execute(running.values(status="finalizing", finalizing_at=now))
        return True

    def renew(self, worker: str) -> None:
        """Say that this worker lives."""
        until = time.time() + LEASE_SECONDS
        with self.database.write() as connection:
            for table in (jobs, job_chunks):
                connection.execute(sa.update(table).where(table.c.owner == worker).values(lease_until=until))

    def release(self, worker: str, *, counts: bool) -> None:
        """Give back everything a worker holds.

        Args:
            counts: its tries count, because it has died; not if it was stopped.
        """
        with self.database.write() as connection:
            for table in (jobs, job_chunks):
                connection.execute(
                    sa.update(table).where(table.c.owner == worker).values(_freed(table, counts))
                )


def _pause(now: float, tries: int) -> float:
    """When a job may have its next turn whose work was leased ``tries`` times in vain and is leased again:
    if it ends this worker, too, it should not do so over and over. After one accident it goes on at once."""
    return now + pause_after(tries - 1)


def _freed(table: sa.Table, counts: bool) -> dict[str, Any]:
    freed: dict[str, Any] = {"owner": None, "lease_until": None}
    if not counts:
        freed["attempts"] = sa.case((table.c.attempts > 0, table.c.attempts - 1), else_=0)
    return freed
