"""Who works on what, and how to tell that he is dead.

A lease has a time limit, long enough for a node that stalls. A node that was killed should not be waited
for: each one holds a file lock for as long as it lives, which the operating system releases with the
process, so that its successor on the same machine sees at once whose leases are void. Other machines cannot
see the lock and wait for the limit.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: leases run out by their time limit alone
    fcntl = None  # type: ignore[assignment]


class Worker:
    """This process's name among the workers, good until :meth:`close` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.name = f"w-{secrets.token_hex(8)}"
        draft = folder / f".{self.name}"  # locked before it gets a name that others look at
        self._file: BinaryIO = draft.open("wb")
        if fcntl:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(folder / self.name)

    def find_dead(self) -> list[str]:
        """Names of workers of this machine that ended without a word; their files stay until :meth:`bury`."""
        return [path.name for path in self._folder.glob("w-*") if path.name != self.name and _is_free(path)]

    def bury(self, name: str) -> None:
        """Forget a dead worker whose leases were taken back."""
        (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
        self.bury(self.name)


def _is_free(path: Path) -> bool:
    if not fcntl:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
