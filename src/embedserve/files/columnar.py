"""Parquet and Arrow, a batch of rows at a time, only the columns that are asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from embedserve.errors import EmbedserveError
from embedserve.files.errors import Unreadable
from embedserve.files.formats import Format
from embedserve.files.records import Record, Wrong

BATCH = 1024
_ARROW_MAGIC = b"ARROW1"


@dataclass(frozen=True, slots=True)
class Columnar:
    """An open file of columns.

    Attributes:
        names: all its columns.
        types: Arrow types of the columns that were asked for.
        records: rows as objects of those columns.
        share: what part of the rows was read so far, 0 … 1.
    """

    names: list[str]
    types: dict[str, Any]
    records: Iterator[Record]
    share: Callable[[], float]


@contextmanager
def open_columnar(
    name: str, file: BinaryIO, format: Format, wanted: Sequence[str] | None
) -> Iterator[Columnar]:
    """Open a Parquet file, an Arrow file or an Arrow stream.

    Args:
        wanted: columns to read; those that are not there are left out. None: all.

    Raises:
        EmbedserveError: pyarrow is missing, or the file is damaged; while reading, too.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EmbedserveError(f"reading {format} needs pyarrow: pip install 'embedserve[parquet]'") from None
    with _seekable(file) as source:
        try:
            opened = _open_parquet if format is Format.PARQUET else _open_arrow
            names, types, batches, total = opened(pyarrow, source, wanted)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise _damaged(name, format, error) from None
        if twice := next((each for each in types if names.count(each) > 1), None):
            raise Unreadable(f"{name} has the column {twice!r} twice: rename one of them")
        done = [0]

        def records() -> Iterator[Record]:
            try:
                for batch in batches:
                    yield from _rows(pyarrow, batch, done)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise _damaged(name, format, error, done[0]) from None

        yield Columnar(names, types, records(), lambda: done[0] / total if total else 0.0)


def _damaged(name: str, format: Format, error: Exception, row: int | None = None) -> Unreadable:
    place = "" if row is None else f", after row {row}"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return Unreadable(f"{name} cannot be read as {format}{place}: {first}")


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file itself, or a copy of a pipe: the directory of both formats is at their end."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile(prefix="embedserve-") as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


_Opened = tuple[list[str], dict[str, Any], Iterator[Any], int]


def _open_parquet(pyarrow: Any, source: BinaryIO, wanted: Sequence[str] | None) -> _Opened:
    table = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
    schema = table.schema_arrow
    types = _choose(schema, wanted)
    batches = table.iter_batches(batch_size=BATCH, columns=list(types))
    return schema.names, types, batches, table.metadata.num_rows


def _open_arrow(pyarrow: Any, source: BinaryIO, wanted: Sequence[str] | None) -> _Opened:
    begin = source.tell()
    magic = source.read(len(_ARROW_MAGIC))
    source.seek(begin)
    if magic == _ARROW_MAGIC:
        file = pyarrow.ipc.open_file(source)
        types = _choose(file.schema, wanted)
        whole: Iterator[Any] = (file.get_batch(number) for number in range(file.num_record_batches))
        total = 0 if file.num_record_batches > 1 else BATCH
        return file.schema.names, types, _slices(whole, list(types)), total
    stream = pyarrow.ipc.open_stream(source)
    types = _choose(stream.schema, wanted)
    return stream.schema.names, types, _slices(iter(stream), list(types)), 0


def _choose(schema: Any, wanted: Sequence[str] | None) -> dict[str, Any]:
    names = schema.names if wanted is None else [name for name in wanted if name in schema.names]
    return {name: schema.field(schema.names.index(name)).type for name in names}


def _slices(batches: Iterator[Any], names: list[str]) -> Iterator[Any]:
    for batch in batches:
        chosen = batch.select(names)
        for at in range(0, batch.num_rows, BATCH):
            yield chosen.slice(at, BATCH)


def _rows(pyarrow: Any, batch: Any, done: list[int]) -> Iterator[Record]:
    names = batch.schema.names
    columns = [_values(pyarrow, column) for column in batch.columns]
    for at in range(batch.num_rows):
        done[0] += 1
        row = {name: column[at] for name, column in zip(names, columns, strict=True)}
        if wrong := next((value for value in row.values() if isinstance(value, Wrong)), None):
            yield done[0], Wrong(wrong.reason, {n: v for n, v in row.items() if not isinstance(v, Wrong)})
        else:
            yield done[0], row


def _values(pyarrow: Any, column: Any) -> list[Any]:
    """Python values; Arrow's own where Python has no equal one (nanoseconds, years over 9999, nested)."""
    if not _has_nanoseconds(pyarrow, column.type):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            return [_value(scalar) for scalar in column]
        except (OverflowError, ValueError):
            pass
    return [value if value.is_valid else None for value in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Wrong(
            f"is not UTF-8 (byte 0x{error.object[error.start]:02x}): write the file anew from its source"
        )


def _has_nanoseconds(pyarrow: Any, type: Any) -> bool:
    if pyarrow.types.is_nested(type):
        return any(_has_nanoseconds(pyarrow, type.field(at).type) for at in range(type.num_fields))
    return getattr(type, "unit", None) == "ns"
