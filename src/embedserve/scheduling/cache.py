"""What makes two windows the same, and an optional store of vectors that were computed before.

A vector depends on nothing but the ids and the weights of its window (the backbone's contract), so these
are the key; the text itself is never kept. The hash is keyed with bytes drawn at start, so that a key
seen in memory or in a dump cannot be looked up among hashes of known texts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

from embedserve.embedding.backbones.base import Floats, Window

_SECRET: Final = os.urandom(16)
_ENTRY_OVERHEAD: Final = 250
"""Bytes of key, dictionary slot and array header beside the numbers of one entry."""


def window_key(window: Window) -> bytes:
    """16 bytes that only the same ids with the same weights have."""
    digest = blake2b(window.ids.tobytes(), digest_size=16, key=_SECRET)
    digest.update(window.weights.tobytes())
    return digest.digest()


class VectorCache:
    """Least recently used vectors, bounded in bytes; with a bound of 0 it keeps nothing.

    Not thread-safe: the scheduler holds its lock around it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[bytes, Floats] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Floats | None:
        """The (hidden,) vector, bit for bit as computed; not to be written to."""
        if not self.limit_bytes:
            return None
        row = self._rows.get(key)
        if row is None:
            self.misses += 1
            return None
        self._rows.move_to_end(key)
        self.hits += 1
        return row

    def put(self, key: bytes, row: Floats) -> None:
        size = row.nbytes + _ENTRY_OVERHEAD
        if size > self.limit_bytes or key in self._rows:
            return
        self._rows[key] = row.copy()  # a view would keep its whole chunk alive
        self.used_bytes += size
        while self.used_bytes > self.limit_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.used_bytes -= oldest.nbytes + _ENTRY_OVERHEAD
