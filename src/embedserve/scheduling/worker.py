"""The one thread that runs the backbone.

It fetches its next chunk itself the moment it is done with one, so that between two chunks the model never
waits for the event loop; results go to the loop by ``call_soon_threadsafe`` (in the callback that the
scheduler passes).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from embedserve.embedding.backbones.base import Backbone, Floats, Window
from embedserve.scheduling.batcher import Unit
from embedserve.scheduling.memory import throttled

log = logging.getLogger(__name__)

Row: TypeAlias = Floats | Exception
"""A window's vector, or why there is none."""
Take: TypeAlias = Callable[[float], list[Unit[Window]]]
Give: TypeAlias = Callable[[list[Unit[Window]], list[Row], float], None]


class Worker:
    """Runs chunks until stopped.

    Args:
        take: called with the time, under :attr:`lock`, for the next chunk; empty means wait.
        give: called without the lock, with the chunk, a row for each unit and the seconds it took.
    """

    def __init__(self, backbone: Backbone, take: Take, give: Give) -> None:
        self.lock = threading.Condition()
        """Guards whatever ``take`` reads; notify it when there is work."""
        self.running = 0
        """Units in the chunk that runs now."""
        self._backbone = backbone
        self._take = take
        self._give = give
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="embedserve-backbone", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the chunk that runs finish, then end. Blocks; idempotent."""
        with self.lock:
            self._stopping = True
            self.lock.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self.lock:
                self.running = 0
                while not self._stopping and not (chunk := self._take(time.monotonic())):
                    self.lock.wait()
                if self._stopping:
                    return
                self.running = len(chunk)
            began = time.monotonic()
            rows = compute_rows(self._backbone, [unit.payload for unit in chunk])
            self._give(chunk, rows, time.monotonic() - began)


def compute_rows(backbone: Backbone, windows: Sequence[Window]) -> list[Row]:
    """One row a window. If the whole fails, each runs alone, so that only what is at fault fails."""
    try:
        vectors = backbone.encode(windows)
        if vectors.shape != (len(windows), backbone.hidden_size):
            raise RuntimeError(
                f"backbone {backbone.name} gave shape {vectors.shape} for {len(windows)} windows "
                f"of hidden size {backbone.hidden_size}"
            )
    except Exception as error:
        if len(windows) == 1 and isinstance(error, MemoryError):
            log.error("no memory for a window of %d tokens: %s", len(windows[0].ids), error)
            return [throttled("interactive", 1.0)]
        if len(windows) == 1:
            log.exception("backbone %s failed on a window of %d tokens", backbone.name, len(windows[0].ids))
            return [error]
        log.warning("backbone %s failed on %d windows; trying one by one", backbone.name, len(windows))
        return [row for window in windows for row in compute_rows(backbone, [window])]
    sound = np.isfinite(vectors.sum(axis=1))
    return [
        row if ok else ArithmeticError(f"backbone {backbone.name} gave a vector that is not finite")
        for row, ok in zip(vectors, sound.tolist(), strict=True)
    ]
