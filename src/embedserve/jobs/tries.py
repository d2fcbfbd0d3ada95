"""Work that raised: whose fault it was, how often it is tried, and when again.

A try is counted in the row when the work is leased, before anything is done, so that one that takes the
process with it counts as well. It is taken off again when the work was done, or when it failed for a reason
that is not its own: a database or a disk that is away, no room in the engine, a server that is stopped.
"""

from __future__ import annotations

import errno
import traceback

from sqlalchemy.exc import SQLAlchemyError

from embedserve.storage.failures import translate

MAX_RAISED = 3
"""So often it may raise."""
MAX_TRIES = 7
"""So often it is leased, by workers that did not come back. More than may raise: a worker has other reasons
to die, and takes innocent work with it."""
MAX_PAUSE = 10.0
MANY_TRIES = 2
"""After these a piece of work runs with no other such piece beside it in the process: if the worker dies
again, the blame falls on one of them."""

_NAMES = (
    *("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EBUSY", "EAGAIN", "EINTR", "ENOLCK"),
    *("EMFILE", "ENFILE", "ENOMEM", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN"),
)
_OUTAGES = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))


def pause_after(tries: int) -> float:
    """Seconds before the next try: 1, 3, 9, and then 10."""
    return min(3.0 ** (tries - 1), MAX_PAUSE) if tries > 0 else 0.0


def is_outage(error: BaseException) -> bool:
    """Whether database or disk are away, which is no fault of the work that met it."""
    if isinstance(error, SQLAlchemyError):
        refusal = translate(error)
        return refusal is not None and refusal.status == 503
    return isinstance(error, OSError) and error.errno in _OUTAGES


def tell(error: BaseException) -> str:
    """For the log: what was raised and where, without its message, which may quote a caller."""
    steps = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__} in {' > '.join(steps[-8:]) or 'nowhere'}"
