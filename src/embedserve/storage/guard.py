"""An end to waiting for a server that took a connection and never answers.

PostgreSQL's own timeouts are kept by the server, so they are no help when the server itself has stopped.
SQLite has no server: a lock is waited for with its busy timeout, and nothing here is needed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection


class Guard:
    """Breaks connections whose work takes longer than ``limit`` seconds; the driver then raises an error."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._watched: dict[int, tuple[float, int]] = {}  # id -> (deadline, socket)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0

    @contextmanager
    def watch(self, connection: Connection, limit: float | None = None) -> Iterator[None]:
        """The block must end within ``limit`` seconds, or the guard's own."""
        driver = connection.connection.driver_connection
        descriptor: int = driver.fileno()  # type: ignore[union-attr]
        with self._lock:
            self._next += 1
            number = self._next
            self._watched[number] = (time.monotonic() + (limit or self.limit), descriptor)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="embedserve-guard", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(number, None)

    def _run(self) -> None:
        while True:
            time.sleep(min(0.25, self.limit / 4))
            now = time.monotonic()
            with self._lock:
                for number, (deadline, descriptor) in list(self._watched.items()):
                    if deadline <= now:
                        del self._watched[number]
                        _break(descriptor)
                if not self._watched:
                    self._thread = None
                    return


def _break(descriptor: int) -> None:
    """Shut the socket down without closing it: the number stays the driver's to close."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed meanwhile
