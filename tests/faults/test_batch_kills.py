"""kill -9 at random moments of a job, over and over: then every line is there, once, and billed once."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from batch_workers import (
    WORKSPACE,
    embedding_line,
    key_of,
    open_jobs,
    open_service,
    start_worker,
    submit_batch,
    submit_task,
)
from embedserve.jobs.records import ENDED
from embedserve.jobs.store import Jobs
from embedserve.settings import Settings
from embedserve.storage.tables import job_chunks, usage_daily, usage_requests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs flock")]

KILLS = 30
"""For each of the two stores."""
SECONDS_PER_TOKEN = 0.00006


def make_settings(folder: Path, url: str) -> Settings:
    return Settings(data_dir=folder, database_url=SecretStr(url), api_key=SecretStr("sk-test-0123456789"))


def submit_round(jobs: Jobs, number: int) -> None:
    """A batch with some lines that fail, and a task with some blank lines."""
    lines = [embedding_line(f"r{i}", f"round {number} line {i}", "and a second text") for i in range(1500)]
    lines[100] = embedding_line("empty", "")
    lines[1200] = embedding_line("dimension", "text", dimensions=3)
    submit_batch(jobs, f"batch_{number}", lines)
    text = b"".join(b"" if i % 97 == 5 else b"task %d line %d" % (number, i) + b"\n" for i in range(1000))
    submit_task(jobs, f"task-{number}", b"first\n\n" + text)


def ended(jobs: Jobs, rounds: int) -> bool:
    ids = [("batch", f"batch_{i}") for i in range(rounds)] + [("task", f"task-{i}") for i in range(rounds)]
    return all(jobs.queue.get(WORKSPACE, id, kind).status in ENDED for kind, id in ids)  # type: ignore[arg-type]


def held_leases(jobs: Jobs) -> int:
    with jobs.queue.database.read() as connection:
        held = sa.select(sa.func.count()).where(job_chunks.c.owner.is_not(None))
        return connection.execute(held).scalar_one()


def collect(jobs: Jobs, rounds: int) -> dict[str, bytes]:
    """Everything that callers can read of the jobs."""
    found: dict[str, bytes] = {}
    for i in range(rounds):
        for kind, id in (("batch", f"batch_{i}"), ("task", f"task-{i}")):
            job = jobs.queue.get(WORKSPACE, id, kind)  # type: ignore[arg-type]
            assert job.status == "completed"
            assert job.completed + job.failed == job.total
            for name, file_id in (("output", job.output_file_id), ("error", job.error_file_id)):
                if file_id:
                    file = jobs.files.get(WORKSPACE, file_id)
                    found[f"{id}.{name}"] = b"".join(jobs.files.blocks(file))
                    assert len(found[f"{id}.{name}"]) == file.bytes
    return found


def ledger(jobs: Jobs) -> tuple[set[tuple[str, int, str]], list[tuple[str, int, int]]]:
    """(rows, daily sums) of the batch door."""
    row, day = usage_requests.c, usage_daily.c
    with jobs.queue.database.read() as connection:
        rows = connection.execute(sa.select(row.request_id, row.tokens, row.model).where(row.door == "batch"))
        sums = connection.execute(
            sa.select(day.model, sa.func.sum(day.requests), sa.func.sum(day.tokens))
            .where(day.door == "batch", day.key_id == key_of(jobs))
            .group_by(day.model)
            .order_by(day.model)
        )
        listed = rows.all()
        assert len(listed) == len({r.request_id for r in listed})
        return {tuple(r) for r in listed}, [(m, int(n), int(t)) for m, n, t in sums]  # type: ignore[misc]


def test_kills_change_neither_the_results_nor_the_bill(tmp_path: Path, database_url: str) -> None:
    dice = random.Random(6)
    settings = make_settings(tmp_path / "killed", database_url)
    service = open_service(settings)
    jobs = open_jobs(service)
    rounds, kills, interrupted = 1, 0, 0
    submit_round(jobs, 0)
    workers = [start_worker(settings, SECONDS_PER_TOKEN) for _ in range(2)]
    until = time.monotonic() + 200
    while time.monotonic() < until:
        # On a busy machine some kills meet a worker that has not begun: they show nothing, so more follow.
        if kills < KILLS or interrupted <= KILLS / 3:
            time.sleep(dice.uniform(0.05, 0.4))
            victim = dice.randrange(2)
            workers[victim].kill()
            workers[victim].join()
            kills += 1
            interrupted += held_leases(jobs) > 0
            workers[victim] = start_worker(settings, SECONDS_PER_TOKEN)
        else:
            time.sleep(0.1)
        if ended(jobs, rounds):
            if kills >= KILLS and interrupted > KILLS / 3:
                break
            submit_round(jobs, rounds)
            rounds += 1
    for worker in workers:
        worker.kill()
        worker.join()
    assert kills >= KILLS
    assert interrupted > KILLS / 3
    print(f"{kills} kills, {interrupted} while chunks were leased, {rounds} rounds")
    results, billed = collect(jobs, rounds), ledger(jobs)
    with jobs.queue.database.read() as connection:
        open_chunks = sa.select(sa.func.count()).where(job_chunks.c.done.is_(False))
        assert connection.execute(open_chunks).scalar() == 0
    service.accounts.database.close()

    calm = make_settings(tmp_path / "calm", f"sqlite:///{tmp_path / 'calm.db'}")
    calm_service = open_service(calm)
    calm_jobs = open_jobs(calm_service)
    for number in range(rounds):
        submit_round(calm_jobs, number)
    worker = start_worker(calm, 0.0)
    while not ended(calm_jobs, rounds):
        assert worker.is_alive()
        time.sleep(0.1)
    worker.kill()
    worker.join()
    assert results.keys() == collect(calm_jobs, rounds).keys()
    assert results == collect(calm_jobs, rounds)
    assert billed == ledger(calm_jobs)
    assert sum(n for *_, n, _ in billed[1]) == len(billed[0])
    calm_service.accounts.database.close()
