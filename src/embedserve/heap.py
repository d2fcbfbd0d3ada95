"""Memory that was freed goes back to the operating system, where the C library can be asked (glibc).

Left alone, glibc keeps what large requests needed: it raises the size from which blocks are mapped by
themselves with every such block that is freed, and gives each thread a heap of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_PAUSE: Final = 1.0
_trimmed_at = -_PAUSE
_waiting = False


def keep_heap_small() -> None:
    """For a server, at its start: two heaps, and blocks from 256 KB on mapped by themselves."""
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
        libc.mallopt(_M_TRIM_THRESHOLD, 1024 * 1024)


def give_back() -> None:
    """Have the heaps trimmed soon, once a second at most; on the event loop."""
    global _waiting
    if _waiting or not _glibc():
        return
    _waiting = True
    delay = max(0.05, _trimmed_at + _PAUSE - time.monotonic())
    asyncio.get_running_loop().call_later(delay, _start)


def _start() -> None:
    asyncio.get_running_loop().run_in_executor(None, _trim)


def _trim() -> None:
    global _trimmed_at, _waiting
    _trimmed_at, _waiting = time.monotonic(), False
    _glibc().malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library, if it is one with these functions."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
    except OSError:
        return None
