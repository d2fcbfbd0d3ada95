"""What accidents leave in the folder of files, told from what somebody needs.

A draft belongs to nobody once it is old. An upload, or the folder of a job, is litter when it is old and no
row names it: the row of an upload is written right after its bytes have their name, that of a job long before
it has a folder, and both are removed before the bytes are.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from embedserve.storage.database import Database
from embedserve.storage.tables import files, jobs, stamps

log = logging.getLogger("embedserve.jobs")

AGE = 24 * 3600.0
"""Seconds after which what nobody finished is litter."""
_MARK = ".database"
_STAMP = "files"
_BLOCK = 500


def sweep(database: Database, folder: Path) -> None:
    """Remove litter; nothing at all in a folder that belongs to another database."""
    limit = time.time() - AGE
    drafts = _older([*folder.glob("uploads/.*"), *folder.glob("jobs/*/.*")], limit)
    uploads = _older([path for path in folder.glob("uploads/*") if not path.name.startswith(".")], limit)
    folders = _older(folder.glob("jobs/*"), limit)
    if not _belongs_to(database, folder):
        log.warning("%s holds files of another database: what is litter there is not removed", folder)
        return
    for path in drafts + _unnamed(database, files.c.id, uploads):
        with suppress(OSError):
            path.unlink(missing_ok=True)
    for path in _unnamed(database, jobs.c.id, folders):
        log.info("removing %s, which belongs to no job", path)
        shutil.rmtree(path, ignore_errors=True)


def _older(paths: Iterable[Path], limit: float) -> list[Path]:
    found = []
    for path in paths:
        with suppress(OSError):  # gone meanwhile
            if path.stat().st_mtime < limit:
                found.append(path)
    return found


def _unnamed(database: Database, column: sa.Column[str], paths: Sequence[Path]) -> list[Path]:
    """Those whose name is no id."""
    left = []
    for first in range(0, len(paths), _BLOCK):
        block = paths[first : first + _BLOCK]
        with database.read() as connection:
            query = sa.select(column).where(column.in_([path.name for path in block]))
            known = set(connection.execute(query).scalars())
        left += [path for path in block if path.name not in known]
    return left


def _belongs_to(database: Database, folder: Path) -> bool:
    """Whether folder and database were used together from the start. A server that was given the wrong one of
    the two would take everything in it for litter."""
    query = sa.select(stamps.c.value).where(stamps.c.name == _STAMP)
    with database.read() as connection:
        number = connection.execute(query).scalar()
    if number is None:
        fresh = database.upsert(stamps).values(name=_STAMP, value=secrets.randbits(62))
        with database.write() as connection:
            connection.execute(fresh.on_conflict_do_nothing())
            number = connection.execute(query).scalar_one()
    mark = folder / _MARK
    if not mark.exists():
        draft = mark.with_name(f"{_MARK}-{secrets.token_hex(8)}")
        draft.write_text(f"{number}\n", "ascii")
        with suppress(FileExistsError):
            os.link(draft, mark)
        draft.unlink()
    return mark.read_text("ascii").strip() == str(number)
