"""Who comes next: workspaces take turns, and within one its jobs do.

A workspace's turn is noted in a row of its own rather than in its jobs, so that a thousand small jobs count
as one caller. A job that was tried and failed waits out its pause; nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedserve.jobs.records import ENDED, RUNNING
from embedserve.jobs.tries import MANY_TRIES
from embedserve.storage.database import upsert
from embedserve.storage.tables import files, job_chunks, job_turns, jobs

LEASE_SECONDS = 60.0
RUNNING_TASKS = 3
"""Tasks of a workspace that run at a time; the others are PENDING, and can be cancelled."""
SMALL_BYTES = 8 * 2**20
"""Inputs up to this are checked without waiting for larger ones."""

_turn = jobs.outerjoin(job_turns, job_turns.c.workspace == jobs.c.workspace)
_fetched = sa.or_(jobs.c.input_url.is_(None), jobs.c.fetched_at.is_not(None))


def fetches(now: float) -> sa.Select[Any]:
    """Jobs whose input is to be fetched, the next one first."""
    return _waiting(now).where(~_fetched)


def checks(now: float, worker: str, *, small: bool, suspects: bool) -> sa.Select[Any]:
    """Jobs whose input is here and waits to be checked, the next one first.

    Args:
        worker: has one large input of a workspace at a time.
        small: only small inputs.
        suspects: also those that were tried often.
    """
    query = _waiting(now).where(_fetched)
    if not suspects:
        query = query.where(jobs.c.attempts < MANY_TRIES)
    if small:
        size = sa.select(files.c.bytes).where(files.c.id == jobs.c.input_file_id).scalar_subquery()
        return query.where(sa.func.coalesce(size, jobs.c.input_bytes) <= SMALL_BYTES)
    held = sa.alias(jobs)
    busy = sa.exists().where(
        held.c.workspace == jobs.c.workspace,
        held.c.status == "validating",
        held.c.owner == worker,
        sa.or_(held.c.input_url.is_(None), held.c.fetched_at.is_not(None)),
    )
    return query.where(~busy)


def _waiting(now: float) -> sa.Select[Any]:
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
    return (
        sa.select(jobs)
        .select_from(_turn)
        .where(
            jobs.c.status == "validating",
            is_free(jobs, now),
            _is_rested(now),
            sa.or_(jobs.c.kind != "task", busy < RUNNING_TASKS),
        )
        .order_by(sa.func.coalesce(job_turns.c.checked_at, 0.0), jobs.c.created_at, jobs.c.id)
        .limit(1)
    )


def running(now: float, *, suspects: bool, without: Sequence[str] = ()) -> sa.Select[Any]:
    """(id, workspace) of jobs with a free chunk, the next one first."""
    free = sa.exists().where(job_chunks.c.job_id == jobs.c.id, *_open(now, suspects))
    return (
        sa.select(jobs.c.id, jobs.c.workspace)
        .select_from(_turn)
        .where(jobs.c.status.in_(RUNNING), _is_rested(now), free, jobs.c.id.not_in(without))
        .order_by(
            sa.func.coalesce(job_turns.c.served_at, 0.0), jobs.c.served_at, jobs.c.created_at, jobs.c.id
        )
        .limit(1)
    )


def chunks(job_id: str, now: float, *, suspects: bool) -> sa.Select[Any]:
    """A job's free chunks, the next one first: what was tried comes before what was not, so that a job that
    cannot succeed ends early."""
    return (
        sa.select(job_chunks)
        .where(job_chunks.c.job_id == job_id, *_open(now, suspects))
        .order_by(job_chunks.c.attempts.desc(), job_chunks.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _open(now: float, suspects: bool) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [job_chunks.c.done.is_(False), is_free(job_chunks, now)]
    return conditions if suspects else [*conditions, job_chunks.c.attempts < MANY_TRIES]


def is_free(table: sa.Table, now: float) -> sa.ColumnElement[bool]:
    """Nobody has it, or his time is over; a lease far in the future is one of a clock that was set back."""
    until = table.c.lease_until
    return sa.or_(table.c.owner.is_(None), until < now, until > now + 2 * LEASE_SECONDS)


def _is_rested(now: float) -> sa.ColumnElement[bool]:
    until = jobs.c.not_before
    return sa.or_(until <= now, until > now + LEASE_SECONDS)


def note_turn(connection: Connection, workspace: str, *, now: float, check: bool) -> None:
    """This workspace is served now."""
    changes = {"checked_at" if check else "served_at": now}
    row = upsert(connection.dialect.name, job_turns).values(workspace=workspace, **changes)
    connection.execute(row.on_conflict_do_update(index_elements=[job_turns.c.workspace], set_=changes))


def forget_turns(connection: Connection, before: float) -> None:
    """Of workspaces that had none since."""
    connection.execute(
        sa.delete(job_turns).where(job_turns.c.checked_at < before, job_turns.c.served_at < before)
    )
