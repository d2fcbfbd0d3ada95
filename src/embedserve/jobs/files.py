"""Files of callers: rows in the database, bytes in a folder that all nodes of a fleet share.

Layout: ``uploads/<file id>`` is one upload; ``jobs/<job id>/000042.output`` is what chunk 42 of a job gave,
``jobs/<job id>/input`` what was fetched for it. A job's output file is the concatenation of its parts in
order and is never copied together, so finishing a job costs nothing and needs no room. Every file appears
complete (written aside, fsync, rename): whoever sees a name sees all its bytes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from embedserve.errors import EmbedserveError
from embedserve.jobs.errors import GivenUpError, StorageFullError, is_full, no_such, refused
from embedserve.jobs.records import ENDED, Job, StoredFile
from embedserve.storage.database import Database
from embedserve.storage.tables import files, job_chunks, jobs

MAX_FILES = 10_000
"""Per workspace; the original's limit per account."""
_BLOCK = 256 * 1024
INPUT = "input"
"""Name of a fetched input in the folder of its job."""


class FileStore:
    """All methods block: call them from a thread.

    Args:
        quota_bytes: what uploads and outputs may take together.
        reserve_bytes: what stays free on the disk whatever the quota says, for the database beside it.
    """

    def __init__(self, database: Database, folder: Path, *, quota_bytes: int, reserve_bytes: int) -> None:
        self.database = database
        self.folder = folder
        self.quota_bytes = quota_bytes
        self.reserve_bytes = reserve_bytes
        for name in ("uploads", "jobs"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    # uploads

    def draft(self) -> Path:
        """A new name to write to; :meth:`adopt` makes it a file."""
        return self.folder / "uploads" / f".draft-{secrets.token_hex(12)}"

    def adopt(
        self, draft: Path, *, workspace: str, purpose: str, filename: str, expires_at: float | None = None
    ) -> StoredFile:
        """Make a written draft a file.

        Raises:
            EmbedserveError: too many files, or no room for them.
        """
        made = StoredFile(
            id=f"file-{purpose}-{secrets.token_hex(12)}",
            workspace=workspace,
            purpose=purpose,
            filename=filename[:512],
            bytes=draft.stat().st_size,
            created_at=time.time(),
            expires_at=expires_at,
        )
        target = self.upload_path(made.id)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.rename(target)
        _sync_folder(target.parent)  # before the transaction: nobody should wait for the disk there
        try:
            self._enter(made)
        except EmbedserveError:  # after anything else nobody knows whether the row is there: sweep looks
            target.unlink(missing_ok=True)
            raise
        return made

    def _enter(self, made: StoredFile) -> None:
        with self.database.write() as connection:
            held = sa.select(sa.func.count()).select_from(files).where(files.c.workspace == made.workspace)
            if connection.execute(held).scalar_one() >= MAX_FILES:
                raise refused("Upload file number exceed limit.")
            if self.used_bytes(connection) + made.bytes > self.quota_bytes:
                raise refused("Upload file capacity exceed limit.")
            connection.execute(sa.insert(files).values({c.name: getattr(made, c.name) for c in files.c}))

    def get(self, workspace: str, id: str) -> StoredFile:
        """Raises EmbedserveError (404) if it is not there or belongs to another workspace."""
        query = sa.select(files).where(files.c.id == id, files.c.workspace == workspace)
        with self.database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None or (row["expires_at"] is not None and row["expires_at"] < time.time()):
            raise no_such("File object", id)
        return StoredFile.of(row)

    def page(
        self,
        workspace: str,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        since: float | None = None,
        until: float | None = None,
        oldest_first: bool = False,
    ) -> tuple[list[StoredFile], bool]:
        """(a page, whether more follow), newest first."""
        query = sa.select(files).where(
            files.c.workspace == workspace,
            sa.or_(files.c.expires_at.is_(None), files.c.expires_at > time.time()),
        )
        if purpose:
            query = query.where(files.c.purpose == purpose)
        if since is not None:
            query = query.where(files.c.created_at >= since)
        if until is not None:
            query = query.where(files.c.created_at <= until)
        keys = (files.c.created_at, files.c.id)
        if after:
            last = self.get(workspace, after)
            place = sa.tuple_(*keys)
            mark = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            query = query.where(place > mark if oldest_first else place < mark)
        order = keys if oldest_first else [key.desc() for key in keys]
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(*order).limit(limit + 1)).mappings().all()
        return [StoredFile.of(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, workspace: str, id: str) -> None:
        """Forget it and free its bytes. Raises EmbedserveError: 404, or 409 while a job still reads it."""
        file = self.get(workspace, id)
        with self.database.write() as connection:
            users = (
                sa.select(jobs.c.id).where(jobs.c.input_file_id == id, jobs.c.status.not_in(ENDED)).limit(1)
            )
            if user := connection.execute(users).scalar():
                raise refused(
                    f"The file is the input of {user}, which is not finished: cancel it first.", status=409
                )
            connection.execute(sa.delete(files).where(files.c.id == id))
        self.erase(file)

    def erase(self, file: StoredFile) -> None:
        """Free the bytes of a file whose row is gone."""
        if file.job_id is None:
            self.upload_path(file.id).unlink(missing_ok=True)
            return
        for path in self.job_folder(file.job_id).glob(f"*{file.suffix}"):
            path.unlink(missing_ok=True)

    def upload_path(self, id: str) -> Path:
        """Where the bytes of an upload lie."""
        return self.folder / "uploads" / id

    def blocks(self, file: StoredFile) -> Iterator[bytes]:
        """The bytes, a block at a time."""
        for path in [self.upload_path(file.id)] if file.job_id is None else self._parts(file):
            with path.open("rb") as source:
                while block := source.read(_BLOCK):
                    yield block

    # outputs

    def job_folder(self, job_id: str) -> Path:
        return self.folder / "jobs" / job_id

    def write_part(self, job_id: str, number: int, suffix: str, lines: Iterable[bytes]) -> int:
        """Write what a chunk gave; its size. Writing the same part again replaces it by the same bytes.

        Raises:
            StorageFullError: the quota or the disk is full; nothing is left behind.
        """
        folder = self.job_folder(job_id)
        draft = folder / f".{number:06d}{suffix}-{secrets.token_hex(6)}"
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            self.check_room()
            with draft.open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            draft.rename(folder / f"{number:06d}{suffix}")
            _sync_folder(folder)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            if is_full(error):
                raise StorageFullError(
                    "The server's disk is full: free some room and submit the job again."
                ) from error
            raise
        return size

    # room

    def used_bytes(self, connection: Connection) -> int:
        """By files, by jobs that have none yet, and by inputs that were fetched."""
        stored = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(files.c.bytes), 0))).scalar_one()
        parts = sa.case((jobs.c.status.in_(ENDED), 0), else_=jobs.c.output_bytes + jobs.c.error_bytes)
        growing = sa.select(sa.func.coalesce(sa.func.sum(parts + jobs.c.input_bytes), 0))
        return int(stored) + int(connection.execute(growing).scalar_one())

    def check_room(self, extra: int = 0) -> None:
        """Raises StorageFullError if ``extra`` more bytes would touch the reserve or break the quota."""
        self._check_disk(extra)
        with self.database.read() as connection:
            self._check_quota(connection, extra)

    def hold_input(self, job: Job, worker: str, size: int) -> None:
        """Count ``size`` bytes for the input that ``worker`` is fetching, until :meth:`drop_inputs`.

        Raises:
            GivenUpError: the job has ended, or another worker has it.
            StorageFullError: there is no room for them; then less is counted.
        """
        self._check_disk(size)
        own = (jobs.c.id == job.id, jobs.c.status == "validating", jobs.c.owner == worker)
        with self.database.write() as connection:
            changed = connection.execute(sa.update(jobs).where(*own).values(input_bytes=size))
            if not changed.rowcount:
                raise GivenUpError
            self._check_quota(connection)

    def drop_inputs(self) -> None:
        """Remove fetched inputs of jobs that have ended."""
        ended = sa.select(jobs.c.id).where(jobs.c.input_bytes > 0, jobs.c.status.in_(ENDED)).limit(1000)
        with self.database.read() as connection:
            ids = connection.execute(ended).scalars().all()
        for id in ids:
            self.drop_input(id)
            with self.database.write() as connection:
                connection.execute(sa.update(jobs).where(jobs.c.id == id).values(input_bytes=0))

    def input_path(self, job: Job) -> Path:
        """Where the bytes of a job's input lie, or will lie when they were fetched."""
        return self.upload_path(job.input_file_id) if job.input_file_id else self.job_folder(job.id) / INPUT

    def input_draft(self, job: Job) -> Path:
        """A new name to fetch to, in a folder that is there; what an earlier fetch left is removed."""
        self.drop_input(job.id)
        folder = self.job_folder(job.id)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder / f".{INPUT}-{secrets.token_hex(6)}"

    def drop_input(self, job_id: str) -> None:
        folder = self.job_folder(job_id)
        for path in [folder / INPUT, *folder.glob(f".{INPUT}*")]:
            path.unlink(missing_ok=True)

    def _check_disk(self, extra: int) -> None:
        if shutil.disk_usage(self.folder).free - extra < self.reserve_bytes:
            raise StorageFullError(
                f"The server's disk has less than {self.reserve_bytes} bytes to spare: free some room, "
                "or lower EMBEDSERVE_FILES_RESERVE_MB, and submit again."
            )

    def _check_quota(self, connection: Connection, extra: int = 0) -> None:
        if self.used_bytes(connection) + extra > self.quota_bytes:
            raise StorageFullError(
                f"The server's quota of {self.quota_bytes} bytes for files is used up: delete files, "
                "or raise EMBEDSERVE_FILES_QUOTA_MB, and submit again."
            )

    def _parts(self, file: StoredFile) -> list[Path]:
        """Parts of the chunks that were booked, in order: what an aborted chunk left is not among them."""
        size = job_chunks.c.error_bytes if file.suffix == ".error" else job_chunks.c.output_bytes
        query = sa.select(job_chunks.c.number).where(
            job_chunks.c.job_id == file.job_id, job_chunks.c.done.is_(True), size > 0
        )
        with self.database.read() as connection:
            numbers = connection.execute(query.order_by(job_chunks.c.number)).scalars().all()
        folder = self.job_folder(file.job_id or "")
        return [folder / f"{number:06d}{file.suffix}" for number in numbers]


def _sync_folder(folder: Path) -> None:
    """Make a rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
