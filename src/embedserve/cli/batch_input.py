"""From files to what a server takes as a batch: JSON lines of requests, with the caller's rows remembered."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedserve.cli.batch_rows import RememberedRows
from embedserve.errors import EmbedserveError
from embedserve.files.decoding import open_text, unpack
from embedserve.files.errors import BadRow
from embedserve.files.formats import Compression, Format
from embedserve.files.groups import error_line
from embedserve.files.json_output import LinesFile, dump_line
from embedserve.files.reader import Reading, open_records, read_rows
from embedserve.files.records import Wrong
from embedserve.files.rows import Columns, Row
from embedserve.files.run import BadRowFound
from embedserve.files.sources import Source

MAX_LINES = 50_000
MAX_BYTES = 480 * 2**20
"""Of one batch's file, with room below the server's 500 MB; more rows become more batches."""
MAX_LINE_BYTES = 6 * 2**20
_PEEKED = 100
"""Lines that are looked at for one that is not blank."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of every row.

    Attributes:
        model: in the request.
        dimension: None: as the server likes.
    """

    model: str = "text-embedding-v4"
    dimension: int | None = None


@dataclass(slots=True)
class Tally:
    """Rows that went in, and those that did not."""

    rows: int = 0
    skipped: int = 0
    errors: int = 0


@contextmanager
def saved_input(sources: Sequence[Source], folder: Path) -> Iterator[list[Source]]:
    """Sources that can be read twice: what comes once, standard input say, is copied."""
    ready = []
    for number, source in enumerate(sources):
        if not source.repeatable:
            copy = folder / f"input-{number}"
            with source.open() as file, copy.open("wb") as target:
                while block := file.read(1 << 20):
                    target.write(block)
            source = replace(source, name=str(copy), size=copy.stat().st_size)
        ready.append(source)
    yield ready


def input_files(
    sources: Sequence[Source],
    columns: Columns,
    reading: Reading,
    asked: Asked,
    *,
    skip_errors: Path | None = None,
    tally: Tally | None = None,
) -> Iterator[tuple[Path, RememberedRows | None]]:
    """Files of requests to upload, each with the rows behind it (None: the requests were the caller's own).

    What is made here is gone when the next one is asked for.

    Raises:
        EmbedserveError: an input cannot be read, or a row cannot be taken.
    """
    tally = tally or Tally()
    with tempfile.TemporaryDirectory(prefix="embedserve-") as place:
        folder = Path(place)
        with saved_input(sources, folder) as ready:
            if columns == Columns() and any(holds_requests(source, reading) for source in ready):
                if len(ready) > 1:
                    raise EmbedserveError("requests go one file at a time: give a single file of them")
                yield _as_utf8(ready[0], reading, folder), None
                return
            rows = read_rows(ready, columns, reading)
            wrong = LinesFile(skip_errors) if skip_errors is not None else None
            maker = _Maker(folder, columns, asked, wrong, tally)
            try:
                yield from maker.make(rows)
            finally:
                if wrong is not None:
                    wrong.close()


def holds_requests(source: Source, reading: Reading) -> bool:
    """Whether the first line that is not blank is a request."""
    if source.kind.format is not Format.JSONL:
        return False
    with open_records(source, reading) as opened:
        for number, (_, value) in enumerate(opened.records):
            if isinstance(value, dict):
                return "body" in value and ("custom_id" in value or "url" in value)
            if value is not None or number >= _PEEKED:
                return False
    return False


def _as_utf8(source: Source, reading: Reading, folder: Path) -> Path:
    """The file itself, or a copy that is plain UTF-8 without a mark."""
    with source.open() as file:
        text = open_text(source.name, unpack(file, source.kind.compression), reading.encoding)
        plain = source.kind.compression is Compression.NONE and text.encoding == "utf-8"
        if plain or isinstance(text, Wrong):
            text.detach()
            return Path(source.name)
        copy = folder / "requests.jsonl"
        with copy.open("w", encoding="utf-8", newline="") as target:
            while block := text.read(1 << 20):
                try:
                    target.write(block)
                except UnicodeEncodeError:
                    raise EmbedserveError(
                        f"{source.name} is not {text.encoding}: give the right --encoding-in"
                    ) from None
        text.detach()
        return copy


class _Maker:
    """Requests out of rows, file by file."""

    def __init__(
        self, folder: Path, columns: Columns, asked: Asked, wrong: LinesFile | None, tally: Tally
    ) -> None:
        self._folder = folder
        self._columns = columns
        self._asked = asked
        self._wrong = wrong
        self._tally = tally
        self._ids: set[str] = set()

    def make(self, rows: Iterator[Row | BadRow]) -> Iterator[tuple[Path, RememberedRows]]:
        lines = self._lines(rows)
        pending = next(lines, None)
        while pending is not None:
            path = self._folder / "input.jsonl"
            remembered = RememberedRows(self._folder / "rows.jsonl", tuple(self._columns.carried))
            with path.open("wb") as target, remembered:
                count = size = 0
                while pending is not None and count < MAX_LINES and size + len(pending[2]) < MAX_BYTES:
                    custom_id, row, line = pending
                    target.write(line)
                    remembered.add(custom_id, row)
                    count, size = count + 1, size + len(line)
                    pending = next(lines, None)
                self._ids.clear()  # a custom_id is one of a kind within its batch
            yield path, remembered

    def _lines(self, rows: Iterator[Row | BadRow]) -> Iterator[tuple[str, Row, bytes]]:
        for row in rows:
            if isinstance(row, Row) and row.text is None:
                self._tally.skipped += 1
                continue
            made = self._request(row) if isinstance(row, Row) else row
            if not isinstance(made, BadRow):
                self._tally.rows += 1
                yield made
                continue
            if self._wrong is None:
                raise BadRowFound(made)
            self._tally.errors += 1
            self._wrong.write([error_line(made)])

    def _request(self, row: Row) -> tuple[str, Row, bytes] | BadRow:
        custom_id = str(row.carried[0]) if self._columns.id is not None else str(row.index)
        if self._columns.id is not None:
            if custom_id in self._ids:
                return row.reject(
                    f"has the id {custom_id[:64]!r} of a row before it: ids of a batch must differ"
                )
            self._ids.add(custom_id)
        body: dict[str, Any] = {"model": self._asked.model, "input": row.text}
        if self._asked.dimension is not None:
            body["dimensions"] = self._asked.dimension
        line = dump_line({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body})
        if len(line) > MAX_LINE_BYTES:
            return row.reject(f"is longer than the {MAX_LINE_BYTES >> 20} MB that a line of a batch may have")
        return custom_id, row, line
