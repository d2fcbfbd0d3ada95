"""The jobs of one server as its doors see them."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from embedserve.jobs.callbacks import Callbacks
from embedserve.jobs.dialect import Dialect
from embedserve.jobs.ending import OUTPUT
from embedserve.jobs.errors import no_such
from embedserve.jobs.files import FileStore
from embedserve.jobs.guard import UrlGuard
from embedserve.jobs.leases import Worker
from embedserve.jobs.links import LinkSigner
from embedserve.jobs.queue import JobQueue
from embedserve.jobs.records import Job, Kind, StoredFile
from embedserve.jobs.runner import Runner
from embedserve.jobs.upkeep import Upkeep
from embedserve.service import EmbeddingService
from embedserve.settings import Settings
from embedserve.storage.tables import files


class Jobs:
    """Files, queue, links and the runner that works in this process.

    Attributes:
        inputs, callbacks: which URLs may be fetched, and which may be told.
    """

    def __init__(
        self, service: EmbeddingService, settings: Settings, dialects: Mapping[Kind, Dialect]
    ) -> None:
        database = service.accounts.database
        folder = settings.files_dir or settings.data_dir / "files"
        self.files = FileStore(
            database,
            folder,
            quota_bytes=settings.files_quota_mb * 2**20,
            reserve_bytes=settings.files_reserve_mb * 2**20,
        )
        self.queue = JobQueue(database)
        self.links = LinkSigner(folder)
        self.inputs = UrlGuard(settings.url_hosts, settings.url_networks, "EMBEDSERVE_URL_HOSTS")
        self.callbacks = UrlGuard(settings.callback_hosts, settings.url_networks, "EMBEDSERVE_CALLBACK_HOSTS")
        self._worker = Worker(settings.data_dir / "workers")
        keep: dict[Kind, float] = {
            "batch": settings.batch_days * 86400,
            "task": settings.task_hours * 3600,
        }
        upkeep = Upkeep(self.queue, self.files, self._worker, keep)
        callbacks = Callbacks(database, dialects, self.callbacks)
        self.runner = Runner(
            service,
            self.queue,
            self.files,
            dialects,
            self.inputs,
            self._worker,
            upkeep,
            callbacks,
            concurrency=settings.batch_concurrency,
        )

    async def start(self) -> None:
        if self.runner.concurrency:
            await self.runner.start()

    async def close(self) -> None:
        await self.runner.close()

    def submit(self, job: Job) -> Job:
        """Put a job in. Blocks. Raises EmbedserveError (429) if there are too many."""
        return self.queue.create(job)

    def result_of(self, task_id: str) -> StoredFile:
        """The output of a task, for a link that was checked. Blocks. Raises EmbedserveError (404)."""
        query = sa.select(files).where(files.c.job_id == task_id, files.c.suffix == OUTPUT)
        with self.queue.database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise no_such("result", task_id)
        return StoredFile.of(row)
