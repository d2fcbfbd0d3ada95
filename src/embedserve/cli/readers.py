"""Texts from files, a row at a time: plain lines, JSON Lines, CSV, Parquet."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from embedserve.errors import EmbedserveError

Row = tuple[int, str]
"""Number from 0, and the text; blank texts are included."""
COLUMN = "text"
_MAX_CELL = 64 * 2**20


@contextmanager
def open_rows(file: str, column: str | None = None) -> Iterator[tuple[Iterator[Row], int | None]]:
    """(rows, how many if that is known) of a file, by its suffix; ``-`` is standard input, plain lines.

    Args:
        column: where the text is in .csv, .parquet and .jsonl; ``text`` if omitted.

    Raises:
        EmbedserveError: not readable, not UTF-8, or without that column; while reading, too.
    """
    suffix = Path(file).suffix.lower()
    if suffix == ".parquet":
        yield _parquet_rows(Path(file), column or COLUMN)
        return
    with _open_source(file) as source:
        if suffix == ".csv":
            yield _csv_rows(source, column or COLUMN), None
        elif suffix == ".jsonl":
            yield _json_rows(source, column or COLUMN), _count_lines(file)
        else:
            yield numbered_lines(source), None if file == "-" else _count_lines(file)


@contextmanager
def _open_source(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 (entered below, outside of the try)
    except OSError as error:
        raise EmbedserveError(f"cannot read {file}: {error.strerror}") from None
    with source:
        yield source


def _count_lines(file: str) -> int:
    with _open_source(file) as source:
        return sum(1 for _ in source)


def numbered_lines(source: BinaryIO) -> Iterator[Row]:
    """Lines without their ends."""
    for number, line in enumerate(source):
        try:
            yield number, line.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise EmbedserveError(
                f"line {number + 1} is not UTF-8: convert the file first, e.g. iconv -f gb18030 -t utf-8"
            ) from None


def _json_rows(source: BinaryIO, column: str) -> Iterator[Row]:
    """Strings, or objects with the column."""
    for number, line in numbered_lines(source):
        if not line.strip():
            yield number, ""
            continue
        try:
            given: Any = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise EmbedserveError(f"line {number + 1} is not JSON") from None
        text = given.get(column) if isinstance(given, dict) else given
        if not isinstance(text, str):
            raise EmbedserveError(
                f"line {number + 1} has no text under {column!r}: name the column with --column"
            )
        yield number, text


def _csv_rows(source: BinaryIO, column: str) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)
    try:
        table = csv.DictReader(io.TextIOWrapper(source, encoding="utf-8-sig", newline=""))
        if column not in (table.fieldnames or ()):
            raise _no_column(column, list(table.fieldnames or ()))
        for number, row in enumerate(table):
            yield number, row[column] or ""
    except UnicodeDecodeError:
        raise EmbedserveError("the file is not UTF-8: convert it first") from None
    except csv.Error as error:
        raise EmbedserveError(f"the file is no CSV: {error}") from None


def _parquet_rows(path: Path, column: str) -> tuple[Iterator[Row], int]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise EmbedserveError("reading parquet needs pyarrow: pip install 'embedserve[parquet]'") from None
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise EmbedserveError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if column not in table.schema_arrow.names:
        raise _no_column(column, table.schema_arrow.names)

    def rows() -> Iterator[Row]:
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[column]):
            for value in batch.column(0).to_pylist():
                if value is not None and not isinstance(value, str):
                    raise EmbedserveError(f"column {column!r} holds {type(value).__name__}, not text")
                yield number, value or ""
                number += 1

    return rows(), int(table.metadata.num_rows)


def _no_column(column: str, there: list[str]) -> EmbedserveError:
    listed = ", ".join(there)[:200] or "none"
    return EmbedserveError(f"there is no column {column!r}: choose one of {listed} with --column")
