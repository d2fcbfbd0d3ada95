"""Looks at what other processes have changed: now and then, and at once when somebody waits for it.

A key that is not known here may have been made elsewhere a moment ago, so nobody is refused before a look
that began after he came. Looks serve everybody who waits, like the commits of the ledger, and there are at
most twenty a second: a flood of wrong keys costs the database a small, fixed number of queries and keeps
nothing in memory, and a good new key waits for one look like everybody else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger("embedserve.accounts")

LOOK = 0.4
"""Seconds between looks that nobody waits for: a revocation holds everywhere within a second."""
GAP = 0.05
"""Seconds between looks at the least."""
PATIENCE = 2.0
"""Seconds that somebody waits for a look; one that takes longer is given up for everybody."""

_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[bool]"]


class Watch:
    """One thread.

    Args:
        look: reads what has changed; blocks.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._began: float | None = None  # the look under way
        self._failing = False

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="embedserve-accounts", daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> None:
        """Blocks until a look that is under way has ended, or ``timeout`` seconds."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    async def fresh(self) -> bool:
        """Return after a look that began after this call; False if the database did not answer."""
        if self._thread is None or self._closing.is_set():
            return await asyncio.to_thread(self._try)
        began = self._began
        if self._failing or (began is not None and time.monotonic() - began > PATIENCE):
            return False  # the next look comes by itself: nobody need wait to hear what is known
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        with self._lock:
            self._waiting.append((loop, future))
        self._wake.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            return False

    def _run(self) -> None:
        ended = -GAP
        while True:
            self._wake.wait(LOOK)
            if self._closing.wait(max(0.0, ended + GAP - time.monotonic())):
                break
            self._wake.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            self._tell(waiting, self._try())
            ended = time.monotonic()
        with self._lock:
            waiting, self._waiting = self._waiting, []
        self._tell(waiting, False)

    def _try(self) -> bool:
        self._began = time.monotonic()
        try:
            self._look()
        except Exception as error:
            # The keys of the last look stay in force; without a ledger nothing is answered anyway.
            if not self._failing:
                known = isinstance(error, SQLAlchemyError)
                log.warning(
                    "the database does not answer (%s)",
                    type(error).__name__,
                    exc_info=None if known else error,
                )
            self._failing = True
            return False
        finally:
            self._began = None
        self._failing = False
        return True

    @staticmethod
    def _tell(waiting: list[_Waiting], answered: bool) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
        for loop, future in waiting:
            loops.setdefault(loop, []).append(future)
        for loop, futures in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures, answered)
            except RuntimeError:
                log.debug("nobody waits for a look any more")


def _resolve(futures: list[asyncio.Future[bool]], answered: bool) -> None:
    for future in futures:
        if not future.done():
            future.set_result(answered)
