"""Vectors to a file, a row at a time: JSON Lines, NumPy, Parquet, Arrow."""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.embedder import Embedding
from embedserve.embedding.quantisation import Encoding, to_binary, to_int8
from embedserve.errors import EmbedserveError

NPY_TYPES: dict[Encoding, str] = {"float": "<f4", "int8": "|i1", "binary": "|u1"}


def open_writer(
    format: str, path: Path | None, *, dense: bool, encoding: Encoding = "float", resume: bool = False
) -> Writer:
    """The writer for ``jsonl``, ``npy``, ``parquet`` or ``arrow``.

    Args:
        resume: keep what an interrupted run has left; its ``next_index`` says where to go on.

    Raises:
        EmbedserveError: they do not fit together, or the path cannot be written.
    """
    if path is None and (resume or format != "jsonl"):
        wanted = "--resume" if resume else f"--format {format}"
        raise EmbedserveError(f"{wanted} needs a file to write to: add --output FILE.{format}")
    if format == "jsonl":
        return JsonlWriter(path, encoding, resume=resume)
    assert path is not None
    if format in ("parquet", "arrow"):
        return TableWriter(path, encoding, format=format, resume=resume)
    if resume:
        raise EmbedserveError(
            "--resume works with jsonl, parquet and arrow: an npy matrix has no line numbers"
        )
    if not dense:
        raise EmbedserveError("--format npy holds dense vectors only: use jsonl or parquet for sparse ones")
    return NpyWriter(path, encoding)


def row_of(index: int, embedding: Embedding, encoding: Encoding = "float") -> dict[str, Any]:
    """One embedding as plain columns; the column ``index`` is the line it came from.

    int8 vectors come with their ``scale``; binary ones are bytes of eight signs each.
    """
    row: dict[str, Any] = {"index": index}
    if embedding.sparse is not None:
        sparse = embedding.sparse
        row["sparse_indices"], row["sparse_values"] = sparse.indices, sparse.values
        row["sparse_tokens"] = list(sparse.tokens)
    if embedding.dense is not None:
        row["embedding"], scale = encode_dense(embedding.dense, encoding)
        if encoding == "int8":
            row["scale"] = scale
    row["tokens"] = embedding.tokens
    return row


def encode_dense(vector: Floats, encoding: Encoding) -> tuple[NDArray[Any], float]:
    """A vector in the encoding asked for, and its int8 scale (1 for the others)."""
    if encoding == "int8":
        codes, scales = to_int8(vector[None])
        return codes[0], float(scales[0])
    return (to_binary(vector[None])[0] if encoding == "binary" else vector), 1.0


class Writer(ABC):
    """Takes one embedding after another; the file is complete when the ``with`` block ends.

    Attributes:
        next_index: the first row that is not in the file yet.
    """

    next_index = 0

    def __init__(self, path: Path | None, encoding: Encoding = "float", mode: str = "wb") -> None:
        self.encoding = encoding
        try:
            self._file: BinaryIO = path.open(mode) if path else sys.stdout.buffer  # type: ignore[assignment]
        except OSError as error:
            raise EmbedserveError(f"cannot write {path}: {error.strerror}") from None
        self._owned = path is not None

    @abstractmethod
    def write(self, index: int, embedding: Embedding) -> None:
        """Add the vectors of line ``index``."""

    def checkpoint(self) -> None:
        """Now and then: what was written should survive the process."""
        self._file.flush()

    def finish(self) -> None:  # noqa: B027 (most formats need nothing)
        """Complete the file; called when everything was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self._file.flush()
        if self._owned:
            self._file.close()


class JsonlWriter(Writer):
    """One JSON object a line. To resume, a last line that is not whole is cut off."""

    def __init__(self, path: Path | None, encoding: Encoding, *, resume: bool = False) -> None:
        kept = 0
        self._like: tuple[list[str], int] | None = None  # how the rows look that an earlier run has left
        if resume and path is not None and path.exists():
            last, kept = _find_end(path)
            if last is not None:
                self.next_index, self._like = last["index"] + 1, _look(last)
        super().__init__(path, encoding, "r+b" if kept else "wb")
        if kept:
            self._file.truncate(kept)
            self._file.seek(kept)

    def write(self, index: int, embedding: Embedding) -> None:
        row = row_of(index, embedding, self.encoding)
        if self._like and self._like != _look(row):
            raise EmbedserveError("the output was begun with other options: leave out --resume to start anew")
        self._like = None
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        self._file.write(orjson.dumps(row, option=option))


def _look(row: dict[str, Any]) -> tuple[list[str], int]:
    """Columns and dimension."""
    return list(row), len(row.get("embedding", ()))


def _find_end(path: Path) -> tuple[dict[str, Any] | None, int]:
    """(last whole row, bytes up to its end) of a file that a run like this one has left."""
    last, kept = None, 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                last = orjson.loads(line)
                last["index"] + 1
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise EmbedserveError(
                    f"{path} is not an output of embedserve embed: give another, or leave out --resume"
                ) from None
            kept += len(line)
    return last, kept


class NpyWriter(Writer):
    """A (lines, dimension) matrix: float32, int8 codes (scales left out), or bytes of sign bits.

    Rows are streamed; the header, which NumPy pads so that the number of rows can grow in place, is written
    again at the end.
    """

    rows = 0
    columns = 0

    def write(self, index: int, embedding: Embedding) -> None:
        if index != self.rows:
            raise EmbedserveError(
                f"line {self.rows + 1} is blank, and an npy matrix has no place for it: remove blank lines, "
                "or use --format jsonl, which keeps line numbers"
            )
        assert embedding.dense is not None
        row, _ = encode_dense(embedding.dense, self.encoding)
        if not self.rows:
            self.columns = len(row)
            self._write_header()
        self.rows += 1
        self._file.write(np.ascontiguousarray(row, NPY_TYPES[self.encoding]).tobytes())

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": NPY_TYPES[self.encoding],
            "fortran_order": False,
            "shape": (self.rows, self.columns),
        }
        npy.write_array_header_1_0(self._file, header)


class TableWriter(Writer):
    """Parquet or an Arrow file: columns index, embedding (list), scale, sparse_*, tokens; needs pyarrow.

    Neither format can be appended to, and one that was not finished cannot be read. So each group of rows
    becomes a small file of its own in ``FILE.parts``, and the parts become the output at the end: what an
    interrupted run has finished is still there to resume from.
    """

    GROUP_ROWS = 4096

    def __init__(self, path: Path, encoding: Encoding, *, format: str, resume: bool = False) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise EmbedserveError(
                f"--format {format} needs pyarrow: pip install 'embedserve[parquet]'"
            ) from None
        self._arrow = pyarrow
        self._format = format
        self._path = path
        self._parts = path.with_name(path.name + ".parts")
        self._rows: list[dict[str, Any]] = []
        if self._parts.exists() and not resume:
            shutil.rmtree(self._parts)
        if resume and not self._parts.exists() and path.exists():
            raise EmbedserveError(f"{path} is finished: there is nothing to resume")
        try:
            self._parts.mkdir(exist_ok=True)
        except OSError as error:
            raise EmbedserveError(f"cannot write {path}: {error.strerror}") from None
        if done := self._part_files():
            last = pyarrow.parquet.read_table(done[-1], columns=["index"])
            self.next_index = last.column("index")[-1].as_py() + 1
        super().__init__(self._parts / ".output", encoding)

    def write(self, index: int, embedding: Embedding) -> None:
        self._rows.append(row_of(index, embedding, self.encoding))
        if len(self._rows) >= self.GROUP_ROWS:
            self._write_part()

    def finish(self) -> None:
        parts = self._part_files()
        if self._rows or not parts:
            self._write_part()
            parts = self._part_files()
        arrow = self._arrow
        schema = arrow.parquet.read_schema(parts[0])
        if self._format == "parquet":
            target = arrow.parquet.ParquetWriter(self._file, schema, compression="zstd")
        else:
            target = arrow.ipc.new_file(self._file, schema)
        with target:
            for part in parts:
                table = arrow.parquet.read_table(part)
                if table.schema != schema:
                    raise EmbedserveError(
                        f"{self._parts} was written with other options: remove it, or leave out --resume"
                    )
                target.write_table(table)
        self._file.flush()
        (self._parts / ".output").replace(self._path)
        shutil.rmtree(self._parts)

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("*.parquet"))

    def _write_part(self) -> None:
        arrow = self._arrow
        columns = {name: [row[name] for row in self._rows] for name in (self._rows or [{"index": 0}])[0]}
        types = {
            "index": arrow.int64(),
            "embedding": arrow.list_(
                {"float": arrow.float32(), "int8": arrow.int8(), "binary": arrow.uint8()}[self.encoding]
            ),
            "scale": arrow.float32(),
            "sparse_indices": arrow.list_(arrow.int32()),
            "sparse_values": arrow.list_(arrow.float32()),
            "sparse_tokens": arrow.list_(arrow.string()),
            "tokens": arrow.int64(),
        }
        table = arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()})
        number = self._rows[0]["index"] if self._rows else 0
        draft = self._parts / ".draft"
        arrow.parquet.write_table(table, draft, compression="zstd")
        draft.replace(self._parts / f"{number:012d}.parquet")
        self._rows.clear()
