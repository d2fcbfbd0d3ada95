"""SQLite's log folded back into its database beside the work, not in the middle of it.

In WAL mode a commit appends to the log and waits for no disk. Left to itself, SQLite moves the log's pages to
the database inside whichever commit crosses four megabytes, with a wait for the disk before and after: on a
disk that others keep busy the charge of a query would wait for seconds. Here a thread does it: when the log
has grown long, and when nobody has written for a moment, so that the database alone holds everything.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

log = logging.getLogger("embedserve.storage")

LOG_BYTES = 16 * 2**20
"""Length of the log at which the thread begins."""
LOG_PAGES = 16_384
"""64 MB: where a commit does it after all, because no thread runs or it does not keep up."""
PRAGMAS = ("journal_size_limit=0", f"wal_autocheckpoint={LOG_PAGES}")
"""For every connection. A log that starts over is cut, so that its length says how much waits."""
_LOOK_SECONDS = 1.0
_PASSES = 3


class Checkpointer:
    """A thread that keeps the log of one database short, and empty of news while nobody writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="embedserve-checkpoint", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End without waiting for a disk that does not answer."""
        self._end.set()

    def _run(self) -> None:
        seen: tuple[int, int] | None = None
        folded: tuple[int, int] | None = None
        while not self._end.wait(_LOOK_SECONDS):
            try:
                status = self._log_path.stat()
                now = (status.st_size, status.st_mtime_ns)
                idle, seen = now == seen, now
                if (idle or status.st_size >= LOG_BYTES) and now != folded and checkpoint(self._path):
                    folded = now
            except (OSError, sqlite3.Error) as error:
                log.debug("the log stays for now: %s", type(error).__name__)


def checkpoint(path: Path) -> bool:
    """Move what is in the log to the database; nobody waits for it. True if that was all of it.

    What others append meanwhile is left, and the log starts over only when nothing is: each pass has less
    to do than the one before.
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        for _ in range(_PASSES):
            _, waiting, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if waiting == moved:
                return True
        return False
    finally:
        connection.close()
