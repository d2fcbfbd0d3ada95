"""How a job ends: its final status, and files made of what there is. Inside the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedserve.jobs.records import Job, Problem, Status
from embedserve.storage.tables import files, jobs

OUTPUT, ERROR = ".output", ".error"


def lock_job(connection: Connection, id: str) -> Job | None:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == id).with_for_update()).mappings().first()
    return Job.of(row) if row else None


def fail_job(connection: Connection, id: str, problems: Sequence[Problem], now: float) -> None:
    note_problems(connection, id, problems)
    end_job(connection, id, "failed", now)


def note_problems(connection: Connection, id: str, problems: Sequence[Problem]) -> None:
    listed = orjson.dumps([problem.as_dict() for problem in problems]).decode()
    connection.execute(sa.update(jobs).where(jobs.c.id == id).values(errors=listed))


def end_job(connection: Connection, id: str, status: Status, now: float) -> None:
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
