"""The one reader: rows of any files, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from embedserve.errors import EmbedserveError
from embedserve.files.columnar import open_columnar
from embedserve.files.decoding import DAMAGE, open_text, translate, unpack
from embedserve.files.delimited import DELIMITERS, read_delimited
from embedserve.files.errors import BadRow, Unreadable
from embedserve.files.formats import Format
from embedserve.files.json_values import read_json
from embedserve.files.records import Record, Wrong, numbered_lines, read_json_lines, read_texts
from embedserve.files.rows import DEFAULT_COLUMN, Columns, Origin, Row, describe_missing, take_row
from embedserve.files.sources import Source, find_sources


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    Attributes:
        encoding: of text files; None: UTF-8, or what a byte order mark says.
        delimiter: of .csv; None: a comma.
        header: whether the first row of .csv and .tsv names the columns.
    """

    encoding: str | None = None
    delimiter: str | None = None
    header: bool = True

    def separator(self, format: Format) -> str:
        """Raises EmbedserveError if it is not one character."""
        given = DELIMITERS.get(self.delimiter or "", self.delimiter or "")
        if self.delimiter is not None and (len(given) != 1 or given in '"\r\n'):
            raise EmbedserveError(f"--delimiter is {self.delimiter!r}, it should be one character, or tab")
        return given or {Format.TSV: "\t"}.get(format, ",")


@dataclass(slots=True)
class Opened:
    """A file's records.

    Attributes:
        unit: what places count.
        names: its columns, where they are known before the first row.
        types: Arrow types of the columns that were asked for, where it has such.
        share: what part of the file was read so far, 0 … 1.
    """

    records: Iterator[Record]
    unit: str = "line"
    names: list[str] | None = None
    types: dict[str, Any] = field(default_factory=dict)
    share: Callable[[], float] = lambda: 0.0


@contextmanager
def open_records(
    source: Source, reading: Reading | None = None, wanted: Sequence[str] | None = None
) -> Iterator[Opened]:
    """The records of one file.

    Args:
        wanted: the columns that are needed; None: all.

    Raises:
        EmbedserveError: it cannot be read; while reading, too.
    """
    reading = reading or Reading()
    format, name = source.kind.format, source.name
    with ExitStack() as stack:
        file = stack.enter_context(source.open())
        if source.kind.columnar:
            if reading.encoding:
                raise EmbedserveError(f"--encoding-in is for texts: {name} is {format}, which has its own")
            table = stack.enter_context(open_columnar(name, file, format, wanted))
            yield Opened(table.records, "row", table.names, table.types, table.share)
            return
        text = open_text(name, unpack(file, source.kind.compression), reading.encoding)
        stack.callback(text.detach)
        encoding = text.encoding
        opened = Opened(iter(()))
        if source.size:
            opened.share = _share_of_bytes(file, source.size)
        if format is Format.TXT:
            records = read_texts(numbered_lines(text, encoding))
        elif format is Format.JSONL:
            records = read_json_lines(numbered_lines(text, encoding))
        elif format is Format.JSON:
            records = read_json(name, text, encoding)
        else:
            separator = reading.separator(format)
            records = read_delimited(name, text, encoding, separator, header=reading.header)
        opened.records = _guarded(name, records)
        if format in (Format.CSV, Format.TSV):
            first = next(opened.records, None)
            opened.names = list(first[1]) if first else []
        yield opened


def _share_of_bytes(file: BinaryIO, size: int) -> Callable[[], float]:
    descriptor = file.fileno()
    return lambda: min(1.0, os.lseek(descriptor, 0, os.SEEK_CUR) / size)


def _guarded(name: str, records: Iterator[Record]) -> Iterator[Record]:
    try:
        yield from records
    except DAMAGE as error:
        raise translate(name, error) from None


@dataclass(slots=True)
class Progress:
    """How far a reading is: bytes of the inputs read, and of all of them; 0 where that is not known."""

    done: float = 0
    total: int = 0


def read_rows(
    sources: Sequence[Source],
    columns: Columns,
    reading: Reading | None = None,
    progress: Progress | None = None,
    check: Callable[[Origin], None] | None = None,
) -> Iterator[Row | BadRow]:
    """Rows of all files, one file after another; indices go on from file to file.

    Args:
        progress: kept up to date.
        check: looks at each file before its first row; raises for one whose columns cannot be carried.

    Raises:
        EmbedserveError: a file cannot be read, or lacks a column that was asked for.
    """
    progress = progress or Progress()
    progress.total = sum(source.size or 0 for source in sources) if all(s.repeatable for s in sources) else 0
    index, before = 0, 0
    for source in sources:
        if source.kind.format is Format.TXT and (columns.text is not None or columns.carried):
            raise EmbedserveError(_no_columns(source))
        with open_records(source, reading, columns.wanted) as opened:
            _check_columns(source, opened, columns)
            types = {name: opened.types[column] for name, column in columns.carried.items() if opened.types}
            origin = Origin(source.name, opened.unit, tuple(columns.carried), types)
            if check:
                check(origin)
            for place, value in opened.records:
                yield take_row(index, origin, place, value, columns)
                index += 1
                if index % 64 == 0:
                    progress.done = before + opened.share() * (source.size or 0)
        before += source.size or 0
        progress.done = before


def _no_columns(source: Source) -> str:
    if source.name == "-":
        return "standard input is taken for plain text, which has no columns: say e.g. --input-format jsonl"
    return f"{source.name} is plain text, which has no columns: leave out --column, --id and --keep"


def _check_columns(source: Source, opened: Opened, columns: Columns) -> None:
    if opened.names is None or (not opened.names and opened.unit == "line"):
        return  # not known before the rows, or there are none
    for column in columns.wanted:
        if column not in opened.names:
            option = "--column" if column == (columns.text or DEFAULT_COLUMN) else ""
            told = describe_missing(column, opened.names, option)
            if len(opened.names) == 1 and (found := next((c for c in ";\t|," if c in opened.names[0]), None)):
                shown = "tab" if found == "\t" else repr(found)
                told += f"; if {shown} separates its fields, say --delimiter {shown}"
            raise Unreadable(f"{source.name} {told}")
    name = columns.text or DEFAULT_COLUMN
    if (type := opened.types.get(name)) is not None and not _is_text(type):
        raise Unreadable(f"{source.name}: the column {name!r} holds {type}, not texts")


def _is_text(type: Any) -> bool:
    words = str(type)
    if words.startswith("dictionary<values="):
        words = words.removeprefix("dictionary<values=").partition(",")[0]
    return words in ("string", "large_string", "string_view", "null")


def read_objects(path: Path, *, header: bool = True) -> Iterator[dict[str, Any]]:
    """Every row of one file as an object, all its columns; blank lines are left out.

    Args:
        header: whether the first row of .csv and .tsv names the columns.

    Raises:
        EmbedserveError: not readable, or a row that is no object, with its place.
    """
    source = find_sources([str(path)]).sources[0]
    with open_records(source, Reading(header=header)) as opened:
        for place, value in opened.records:
            if isinstance(value, Wrong):
                raise Unreadable(f"{path}: {opened.unit} {place} {value.reason}")
            if isinstance(value, dict):
                yield value
            elif value is not None:
                raise Unreadable(f"{path}: {opened.unit} {place} is no object of columns")
