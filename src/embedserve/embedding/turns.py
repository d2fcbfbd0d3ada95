"""One network, many threads: whoever calls waits for a turn, and nobody meets a network that is gone."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence

from embedserve.embedding.backbones.base import Backbone, Floats, Window
from embedserve.errors import EmbedserveError

FORK_SAFE = ("native-", "reference-")
"""Backbones, by the start of their names, that work on in a forked child: they have no threads of their own
or start them anew."""


class Turns:
    """A backbone for callers in many threads; ``encode`` takes one call at a time (the backbones' contract).

    A fork waits until no call runs, so that the child does not inherit a network in mid-air.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        _everyone.add(self)

    def check(self) -> None:
        """Raises EmbedserveError if there is no network to ask: closed, or left behind by a fork."""
        if self._closed:
            raise EmbedserveError("this Embedder is closed: make another one")
        if self._process != os.getpid() and not self._backbone.name.startswith(FORK_SAFE):
            raise EmbedserveError(
                f"this Embedder ({self._backbone.name}) was made in process {self._process} and its threads "
                f"stayed there: make one in this process, {os.getpid()}, too"
            )

    def encode(self, windows: Sequence[Window]) -> Floats:
        """See :meth:`Backbone.encode`. Raises EmbedserveError like :meth:`check`."""
        with self._lock:
            self.check()
            return self._backbone.encode(windows)

    def close(self) -> None:
        """Let a running call end, then give threads and memory back. Idempotent."""
        with self._lock:
            self._closed = True
            self._backbone.close()

    def hold(self) -> None:
        self._lock.acquire()

    def go_on(self) -> None:
        self._lock.release()


_everyone: weakref.WeakSet[Turns] = weakref.WeakSet()
_held: list[Turns] = []


def _before_fork() -> None:
    _held.extend(sorted(_everyone, key=id))
    for turns in _held:
        turns.hold()


def _after_fork() -> None:
    while _held:
        _held.pop().go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
