"""Jobs and their chunks in the database: who may do what next, and what is done for good.

Every change that matters is one transaction, and names the state it expects to find. A chunk is *done* in the
same transaction that bills its lines and counts them; a worker whose lease was taken over finds its chunk
gone and books nothing. So each line ends up in the output and in the ledger exactly once, whoever dies when.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedserve.accounts.charges import Booking, Charge, write_charges
from embedserve.errors import EmbedserveError
from embedserve.jobs.errors import no_such
from embedserve.jobs.records import ENDED, RUNNING, Chunk, Job, Kind, Problem, Status
from embedserve.storage.database import Database
from embedserve.storage.tables import files, job_chunks, jobs

LEASE_SECONDS = 60.0
OPEN_JOBS: dict[Kind, int] = {"batch": 1000, "task": 50}
"""Jobs of a workspace that may be unfinished at a time, as the original allows."""
RUNNING_TASKS = 3
"""Tasks of a workspace that run at a time; the others are PENDING, and can be cancelled."""
OUTPUT, ERROR = ".output", ".error"


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
        """
        now = time.time()
        with self.database.write() as connection:
            job = self._lock(connection, id)
            if job is None or job.workspace != workspace or job.kind != kind:
                raise no_such(kind, id)
            if job.status in ENDED or job.status in ("cancelling", "finalizing"):
                return None
            if only_pending and job.started_at is not None:
                return None
            if job.status == "validating":
                changes: dict[str, Any] = {"status": "cancelled", "cancelling_at": now, "ended_at": now}
            else:
                changes = {"status": "cancelling", "cancelling_at": now}
            connection.execute(sa.update(jobs).where(jobs.c.id == id).values(changes))
        return self.get(workspace, id, kind)

    # for the workers

    def lease_check(self, worker: str, fetched: bool = False) -> Job | None:
        """A job that waits to be checked and cut into chunks, oldest first; one whose input is here, or one
        whose input is to be ``fetched``."""
        now = time.time()
        running = sa.alias(jobs)
        busy = (
            sa.select(sa.func.count())
            .where(
                running.c.kind == "task",
                running.c.workspace == jobs.c.workspace,
                running.c.started_at.is_not(None),
                running.c.status.not_in(ENDED),
                running.c.id != jobs.c.id,
            )
            .scalar_subquery()
        )
        query = (
            sa.select(jobs)
            .where(
                jobs.c.status == "validating",
                _is_free(jobs, now),
                jobs.c.input_url.is_not(None) if fetched else jobs.c.input_url.is_(None),
                sa.or_(jobs.c.kind != "task", busy < RUNNING_TASKS),
            )
            .order_by(jobs.c.created_at)
            .limit(1)
        )
        with self.database.read() as connection:
            if connection.execute(query).first() is None:
                return None  # the usual answer: no need for a write lock
        with self.database.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True, of=jobs)).mappings().first()
            if row is None:
                return None
            changes: dict[str, Any] = {"owner": worker, "lease_until": now + LEASE_SECONDS}
            if row["started_at"] is None:
                changes["started_at"] = now
            connection.execute(sa.update(jobs).where(jobs.c.id == row["id"]).values(changes))
            return Job.of({**row, **changes})

    def begin(self, job: Job, worker: str, model: str, chunks: Sequence[Chunk]) -> bool:
        """The job was checked: let its chunks run. False if it was cancelled or taken over meanwhile."""
        with self.database.write() as connection:
            expected = (jobs.c.id == job.id, jobs.c.status == "validating", jobs.c.owner == worker)
            changed = connection.execute(
                sa.update(jobs)
                .where(*expected)
                .values(
                    status="in_progress",
                    in_progress_at=time.time(),
                    model=model,
                    total=sum(chunk.lines for chunk in chunks),
                    chunks_left=len(chunks),
                    owner=None,
                    lease_until=None,
                )
            )
            if not changed.rowcount:
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
            connection.execute(sa.insert(job_chunks), rows)
        return True

    def postpone_check(self, job: Job, worker: str) -> None:
        """Give a job back, unchecked."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job.id, jobs.c.owner == worker)
                .values(owner=None, lease_until=None)
            )

    def lease_chunk(self, worker: str) -> tuple[Job, Chunk] | None:
        """The next chunk of the job that was served longest ago: jobs take turns."""
        now = time.time()
        query = (
            sa.select(jobs.c.id, job_chunks.c.number)
            .join(job_chunks, job_chunks.c.job_id == jobs.c.id)
            .where(jobs.c.status.in_(RUNNING), job_chunks.c.done.is_(False), _is_free(job_chunks, now))
            .order_by(jobs.c.served_at, job_chunks.c.number)
            .limit(1)
        )
        with self.database.read() as connection:
            if connection.execute(query).first() is None:
                return None
        with self.database.write() as connection:
            found = connection.execute(query.with_for_update(skip_locked=True, of=job_chunks)).first()
            if found is None:
                return None
            job_id, number = found
            place = (job_chunks.c.job_id == job_id, job_chunks.c.number == number)
            connection.execute(
                sa.update(job_chunks).where(*place).values(owner=worker, lease_until=now + LEASE_SECONDS)
            )
            connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(served_at=now))
            job = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().one()
            chunk = connection.execute(sa.select(job_chunks).where(*place)).mappings().one()
        return Job.of(job), Chunk.of(chunk)

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
        current = self._lock(connection, job.id)
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
            )
        )
        if result.problem is not None:
            self._fail(connection, job.id, [result.problem], now)
            return billed
        left = sa.select(jobs.c.chunks_left).where(jobs.c.id == job.id)
        if not connection.execute(left).scalar_one():
            ends: dict[Status, Status] = {"cancelling": "cancelled", "finalizing": "expired"}
            self._end(connection, job.id, ends.get(current.status, "completed"), now)
        return billed

    def postpone_chunk(self, job: Job, chunk: Chunk, worker: str) -> None:
        """Give one chunk back, undone."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(job_chunks)
                .where(
                    job_chunks.c.job_id == job.id,
                    job_chunks.c.number == chunk.number,
                    job_chunks.c.owner == worker,
                )
                .values(owner=None, lease_until=None)
            )

    def fail(self, job: Job, problems: Sequence[Problem]) -> bool:
        """Give a job up; lines that are done stay in its output, and billed. False if it had ended."""
        with self.database.write() as connection:
            current = self._lock(connection, job.id)
            if current is None or current.status in ENDED:
                return False
            self._fail(connection, job.id, problems, time.time())
        return True

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

    def release(self, worker: str) -> None:
        """Give back everything a worker holds, because it ends or has died."""
        with self.database.write() as connection:
            for table in (jobs, job_chunks):
                connection.execute(
                    sa.update(table).where(table.c.owner == worker).values(owner=None, lease_until=None)
                )

    # after the end

    def callbacks(self) -> list[Job]:
        """Some ended jobs whose callback was not told yet; at random, so that dead ones hold up no others."""
        query = sa.select(jobs).where(jobs.c.callback.is_not(None), jobs.c.status.in_(ENDED))
        query = query.order_by(sa.func.random()).limit(20)
        with self.database.read() as connection:
            return [Job.of(row) for row in connection.execute(query).mappings()]

    def close_callback(self, job: Job) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(callback=None))

    def _lock(self, connection: Connection, id: str) -> Job | None:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == id).with_for_update()).mappings().first()
        return Job.of(row) if row else None

    def _fail(self, connection: Connection, id: str, problems: Sequence[Problem], now: float) -> None:
        listed = orjson.dumps([problem.as_dict() for problem in problems]).decode()
        connection.execute(sa.update(jobs).where(jobs.c.id == id).values(errors=listed))
        self._end(connection, id, "failed", now)

    def _end(self, connection: Connection, id: str, status: Status, now: float) -> None:
        """Set the final status and make files of what there is."""
        job = Job.of(connection.execute(sa.select(jobs).where(jobs.c.id == id)).mappings().one())
        changes: dict[str, Any] = {"status": status, "ended_at": now, "owner": None, "lease_until": None}
        if job.finalizing_at is None and status != "failed":
            changes["finalizing_at"] = now
        made = {OUTPUT: ("output_file_id", job.output_bytes), ERROR: ("error_file_id", job.error_bytes)}
        for suffix, (column, size) in made.items():
            if size:
                name = suffix[1:]
                changes[column] = f"file-batch_{name}-{secrets.token_hex(12)}"
                connection.execute(
                    sa.insert(files).values(
                        id=changes[column],
                        workspace=job.workspace,
                        purpose=f"batch_{name}",
                        filename=f"{job.id}_{name}.{'jsonl' if job.kind == 'batch' else 'txt.gz'}",
                        bytes=size,
                        created_at=now,
                        job_id=job.id,
                        suffix=suffix,
                    )
                )
        connection.execute(sa.update(jobs).where(jobs.c.id == id).values(changes))


def _is_free(table: sa.Table, now: float) -> sa.ColumnElement[bool]:
    """Nobody has it, or his time is over; a lease far in the future is one of a clock that was set back."""
    until = table.c.lease_until
    return sa.or_(table.c.owner.is_(None), until < now, until > now + 2 * LEASE_SECONDS)
