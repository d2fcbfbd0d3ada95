"""The store of jobs with its runner in this process, on both databases."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from batch_workers import embedding_line, open_jobs, open_service
from embedserve.jobs.records import ENDED, Job
from embedserve.jobs.store import Jobs
from embedserve.settings import Settings
from embedserve.storage.tables import jobs, usage_requests

Made = Callable[..., Jobs]


@pytest.fixture
def make_store(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Opens the store of one node; each call is another node of the same fleet."""
    monkeypatch.setattr("embedserve.jobs.runner.POLL_SECONDS", 0.02)
    opened = []

    def open_one(node: str = "node", **settings: object) -> Jobs:
        given = Settings(
            data_dir=tmp_path / node,
            files_dir=tmp_path / "files",
            database_url=SecretStr(database_url),
            api_key=SecretStr("sk-test-0123456789"),
            **settings,  # type: ignore[arg-type]
        )
        service = open_service(given)
        opened.append(service)
        return open_jobs(service)

    yield open_one
    for service in opened:
        service.accounts.database.close()


def run(store: Jobs, work: Callable[[], Awaitable[None]], seconds: float = 60) -> None:
    """Do something while the node's runner runs."""

    async def main() -> None:
        service = store.runner.service
        await service.engine.scheduler.start()
        await store.start()
        try:
            async with asyncio.timeout(seconds):
                await work()
        finally:
            await store.runner.close()
            await service.engine.scheduler.close()

    asyncio.run(main())


@contextmanager
def running(store: Jobs) -> Iterator[None]:
    """The node's runner, in a thread."""
    started, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        while not ended.is_set():  # noqa: ASYNC110 (set by another thread)
            await asyncio.sleep(0.02)

    thread = threading.Thread(target=run, args=(store, wait), kwargs={"seconds": 600})
    thread.start()
    try:
        assert started.wait(60)
        yield
    finally:
        ended.set()
        thread.join()


def wait_for(store: Jobs, *ids: str, seconds: float = 60) -> list[Job]:
    """The jobs, once all of them have ended."""
    until = time.monotonic() + seconds
    found = find(store, *ids)
    while not all(job.status in ENDED for job in found):
        assert time.monotonic() < until, [(job.id, job.status, job.attempts) for job in found]
        time.sleep(0.02)
        found = find(store, *ids)
    return found


def finish(store: Jobs, *ids: str) -> list[Job]:
    """Run until these jobs have ended."""

    async def wait() -> None:
        while not all(job.status in ENDED for job in find(store, *ids)):  # noqa: ASYNC110 (waits for rows)
            await asyncio.sleep(0.02)

    run(store, wait)
    return find(store, *ids)


def find(store: Jobs, *ids: str) -> list[Job]:
    with store.queue.database.read() as connection:
        rows = connection.execute(sa.select(jobs).where(jobs.c.id.in_(ids))).mappings()
        return sorted((Job.of(row) for row in rows), key=lambda job: ids.index(job.id))


def change(store: Jobs, table: sa.Table, **values: object) -> None:
    with store.queue.database.write() as connection:
        connection.execute(sa.update(table).values(**values))


def lines(count: int, name: str = "line") -> list[bytes]:
    return [embedding_line(f"{name}-{i}", f"{name} {i}") for i in range(count)]


def text_of(store: Jobs, job: Job, file_id: str | None) -> bytes:
    """The bytes of one of its files, none for one that it has not."""
    if file_id is None:
        return b""
    raw = b"".join(store.files.blocks(store.files.get(job.workspace, file_id)))
    return gzip.decompress(raw) if job.kind == "task" else raw


def billed(store: Jobs) -> int:
    with store.queue.database.read() as connection:
        rows = sa.select(sa.func.count()).select_from(usage_requests).where(usage_requests.c.door == "batch")
        return connection.execute(rows).scalar_one()
