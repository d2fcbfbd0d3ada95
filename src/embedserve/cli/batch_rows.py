"""The caller's rows behind a batch: ids and kept columns, which a server never sees.

They lie in the user's data folder under the batch's id, so ``embedserve batch results`` finds them as long as
it runs as the same user on the same machine, and are forgotten after 40 days (servers keep results for 30).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from embedserve.errors import EmbedserveError
from embedserve.files.json_output import dump_line
from embedserve.files.records import parse_json
from embedserve.files.rows import Row
from embedserve.settings import default_data_dir

KEPT_SECONDS = 40 * 86400
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class RememberedRows:
    """A file of ``[custom_id, index, values…]`` lines under a line of column names."""

    def __init__(self, path: Path, carried: tuple[str, ...]) -> None:
        self._path = path
        self._carried = carried

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._file.write(dump_line(list(self._carried)))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, custom_id: str, row: Row) -> None:
        self._file.write(dump_line([custom_id, row.index, *row.carried]))

    def keep(self, batch_id: str) -> None:
        """Remember them under the id of the batch that they became."""
        folder = _folder()
        with suppress(OSError):  # nothing depends on it but the columns of a later `batch results`
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _forget_old(folder)
            draft = folder / f".{batch_id}"
            shutil.copyfile(self._path, draft)
            os.chmod(draft, 0o600)
            draft.rename(folder / batch_id)


class RecalledRows:
    """The rows of a batch, looked up by their ``custom_id``, mostly in their order.

    Attributes:
        carried: names of the columns that they carry.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.carried: tuple[str, ...] = tuple(orjson.loads(file.readline()))
        self._passed: dict[str, tuple[int, tuple[Any, ...]]] = {}

    def find(self, custom_id: str) -> tuple[int, tuple[Any, ...]]:
        """(index, carried values) of a row. Raises EmbedserveError if it is not one of them."""
        if custom_id in self._passed:
            return self._passed.pop(custom_id)
        for line in self._file:
            found, index, *values = parse_json(line.decode())
            if found == custom_id:
                return index, tuple(values)
            self._passed[found] = index, tuple(values)
        raise EmbedserveError(f"the results have a line {custom_id[:64]!r} that was not submitted from here")


def recall_rows(batch_id: str) -> RecalledRows | None:
    """The rows of a batch; None for one that was not made here."""
    if not _NAME.fullmatch(batch_id):
        return None
    try:
        return RecalledRows((_folder() / batch_id).open("rb"))
    except OSError:
        return None


def _folder() -> Path:
    return default_data_dir() / "submitted"


def _forget_old(folder: Path) -> None:
    limit = time.time() - KEPT_SECONDS
    for path in folder.iterdir():
        if path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)
