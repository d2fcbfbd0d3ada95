"""A copy of a SQLite database that others are writing to, as it was at one moment."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from embedserve.errors import EmbedserveError


def back_up(source: Path, target: Path) -> int:
    """Copy a database to a new file of its own; its size in bytes.

    SQLite's own copy: one read transaction, for which no writer waits. The copy is complete without the log
    beside the source, is checked, and appears under its name only when it is on the disk.

    Raises:
        EmbedserveError: the target exists or cannot be written, or the source is damaged.
    """
    if target.exists() or target.is_symlink():
        raise EmbedserveError(f"{target} exists already: a backup overwrites nothing, name another file.")
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)  # keys are in it
        os.close(descriptor)
        _copy(source, draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        _put(draft, target)
        size = target.stat().st_size
    except FileExistsError:
        raise EmbedserveError(f"{target} exists already: a backup overwrites nothing.") from None
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EmbedserveError(f"The backup {target} cannot be made: {reason}.") from error
    finally:
        for name in (draft.name, f"{draft.name}-journal", f"{draft.name}-wal", f"{draft.name}-shm"):
            with contextlib.suppress(OSError):
                draft.with_name(name).unlink()
    return size


def _put(draft: Path, target: Path) -> None:
    """Under its name, and in nobody's place. Raises FileExistsError."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        draft.rename(target)


def _copy(source: Path, draft: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source, timeout=5)) as original,
        contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy,
    ):
        original.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, that can be read where nothing can be written
        if (found := copy.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"the database is damaged ({found})")
